//! Opcodes [NVMe-2.0c §5 figure 138 (admin); NVM-1.0c §3 figure 14 (I/O)].

use std::fmt;

macro_rules! opcodes {
    ($(#[$meta:meta])* $type:ident { $( $value:literal $name:ident $text:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type(pub u8);

        impl $type {
            $(
                #[doc = $text]
                pub const $name: Self = Self($value);
            )*

            /// The name the specification gives it.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $value => Some($text), )*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "opcode {:02x}h", self.0),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

opcodes! {
    /// Opcode of an admin command.
    AdminOpcode {
        0x00 DELETE_IO_SQ "Delete I/O Submission Queue",
        0x01 CREATE_IO_SQ "Create I/O Submission Queue",
        0x02 GET_LOG_PAGE "Get Log Page",
        0x04 DELETE_IO_CQ "Delete I/O Completion Queue",
        0x05 CREATE_IO_CQ "Create I/O Completion Queue",
        0x06 IDENTIFY "Identify",
        0x08 ABORT "Abort",
        0x09 SET_FEATURES "Set Features",
        0x0a GET_FEATURES "Get Features",
        0x0c ASYNC_EVENT_REQUEST "Asynchronous Event Request",
        0x0d NAMESPACE_MANAGEMENT "Namespace Management",
        0x10 FIRMWARE_COMMIT "Firmware Commit",
        0x11 FIRMWARE_IMAGE_DOWNLOAD "Firmware Image Download",
        0x14 DEVICE_SELF_TEST "Device Self-test",
        0x15 NAMESPACE_ATTACHMENT "Namespace Attachment",
        0x18 KEEP_ALIVE "Keep Alive",
        0x19 DIRECTIVE_SEND "Directive Send",
        0x1a DIRECTIVE_RECEIVE "Directive Receive",
        0x1c VIRTUALIZATION_MANAGEMENT "Virtualization Management",
        0x1d NVME_MI_SEND "NVMe-MI Send",
        0x1e NVME_MI_RECEIVE "NVMe-MI Receive",
        0x20 CAPACITY_MANAGEMENT "Capacity Management",
        0x24 LOCKDOWN "Lockdown",
        0x7c DOORBELL_BUFFER_CONFIG "Doorbell Buffer Config",
        0x7f FABRICS "Fabrics Commands",
        0x80 FORMAT_NVM "Format NVM",
        0x81 SECURITY_SEND "Security Send",
        0x82 SECURITY_RECEIVE "Security Receive",
        0x84 SANITIZE "Sanitize",
        0x86 GET_LBA_STATUS "Get LBA Status",
    }
}

opcodes! {
    /// Opcode of an I/O command of the NVM command set.
    IoOpcode {
        0x00 FLUSH "Flush",
        0x01 WRITE "Write",
        0x02 READ "Read",
        0x04 WRITE_UNCORRECTABLE "Write Uncorrectable",
        0x05 COMPARE "Compare",
        0x08 WRITE_ZEROES "Write Zeroes",
        0x09 DATASET_MANAGEMENT "Dataset Management",
        0x0c VERIFY "Verify",
        0x0d RESERVATION_REGISTER "Reservation Register",
        0x0e RESERVATION_REPORT "Reservation Report",
        0x11 RESERVATION_ACQUIRE "Reservation Acquire",
        0x15 RESERVATION_RELEASE "Reservation Release",
        0x19 COPY "Copy",
    }
}
