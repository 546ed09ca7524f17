//! Layout of NVMe: registers, commands, completions, what controllers say about themselves.
//!
//! Revisions: NVM Express Base Specification 2.0c (cited `NVMe-2.0c`), NVM Command Set Specification 1.0c (`NVM-1.0c`), NVMe over
//! PCIe Transport Specification 1.0c (`NVMe-PCIe-1.0c`). Fields have the specifications' acronyms, in lower case. Layout only:
//! nothing here reads a device, and bytes from a device make an error or a value that the driver then judges, never a
//! panic. Zero-based values are kept as they are; who uses one converts it once.

pub mod layout;
pub mod registers;
pub mod opcode;
pub mod status;
pub mod entry;
pub mod command;
pub mod identify;
pub mod lists;
pub mod log;
pub mod feature;

pub use entry::{Cqe, Sqe};
pub use opcode::{AdminOpcode, IoOpcode};
pub use status::{Status, StatusField, StatusType};
