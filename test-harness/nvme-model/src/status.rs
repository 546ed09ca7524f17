//! Completion status values the model answers with.

/// Status code type and status code. [NVMe-2.0c §3.3.3.2.1, figures 93-96; NVM-1.0c §2.2]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Status Code Type: 0 generic, 1 command specific, 2 media and data integrity.
    pub kind: u8,
    /// Status Code.
    pub code: u8,
    /// Do Not Retry.
    pub do_not_retry: bool,
}

impl Status {
    /// As bits 15:1 of completion dword 3 shifted by 17: SC 8:1, SCT 11:9, DNR 15, the phase bit left zero.
    #[must_use]
    pub const fn field(self) -> u16 {
        let dnr = if self.do_not_retry { 1 << 15 } else { 0 };
        dnr | ((self.kind as u16 & 7) << 9) | ((self.code as u16) << 1)
    }

    /// Whether it is success.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.kind == 0 && self.code == 0
    }

    /// The same, worth a retry.
    #[must_use]
    pub const fn retriable(self) -> Self {
        Self { do_not_retry: false, ..self }
    }
}

const fn refuse(kind: u8, code: u8) -> Status {
    Status { kind, code, do_not_retry: true }
}

const fn again(kind: u8, code: u8) -> Status {
    Status { kind, code, do_not_retry: false }
}

macro_rules! statuses {
    ($($(#[$meta:meta])* $name:ident = $value:expr;)*) => {
        impl Status { $($(#[$meta])* pub const $name: Self = $value;)* }
    };
}

statuses! {
    /// Successful Completion.
    SUCCESS = again(0, 0x00);
    /// Invalid Command Opcode.
    INVALID_OPCODE = refuse(0, 0x01);
    /// Invalid Field in Command.
    INVALID_FIELD = refuse(0, 0x02);
    /// Data Transfer Error.
    DATA_TRANSFER = refuse(0, 0x04);
    /// Internal Error.
    INTERNAL = again(0, 0x06);
    /// Command Abort Requested.
    ABORT_REQUESTED = again(0, 0x07);
    /// Command Aborted due to SQ Deletion.
    SQ_DELETED = again(0, 0x08);
    /// Invalid Namespace or Format.
    INVALID_NAMESPACE = refuse(0, 0x0b);
    /// Command Sequence Error.
    SEQUENCE = refuse(0, 0x0c);
    /// Invalid SGL Segment Descriptor.
    SGL_SEGMENT = refuse(0, 0x0d);
    /// Invalid Number of SGL Descriptors.
    SGL_NUMBER = refuse(0, 0x0e);
    /// Data SGL Length Invalid.
    SGL_LENGTH = refuse(0, 0x0f);
    /// SGL Descriptor Type Invalid.
    SGL_TYPE = refuse(0, 0x11);
    /// PRP Offset Invalid.
    PRP_OFFSET = refuse(0, 0x13);
    /// Sanitize Failed.
    SANITIZE_FAILED = refuse(0, 0x1c);
    /// Sanitize In Progress.
    SANITIZING = again(0, 0x1d);
    /// LBA Out of Range.
    LBA_RANGE = refuse(0, 0x80);
    /// Namespace Not Ready.
    NOT_READY = again(0, 0x82);
    /// Completion Queue Invalid.
    CQ_INVALID = refuse(1, 0x00);
    /// Invalid Queue Identifier.
    QUEUE_ID = refuse(1, 0x01);
    /// Invalid Queue Size.
    QUEUE_SIZE = refuse(1, 0x02);
    /// Abort Command Limit Exceeded.
    ABORT_LIMIT = again(1, 0x03);
    /// Asynchronous Event Request Limit Exceeded.
    EVENT_LIMIT = refuse(1, 0x05);
    /// Invalid Firmware Slot.
    FIRMWARE_SLOT = refuse(1, 0x06);
    /// Invalid Firmware Image.
    FIRMWARE_IMAGE = refuse(1, 0x07);
    /// Invalid Interrupt Vector.
    VECTOR = refuse(1, 0x08);
    /// Invalid Log Page.
    LOG_PAGE = refuse(1, 0x09);
    /// Invalid Format.
    FORMAT = refuse(1, 0x0a);
    /// Firmware Activation Requires Controller Level Reset.
    FIRMWARE_NEEDS_RESET = again(1, 0x11);
    /// Invalid Queue Deletion.
    QUEUE_DELETION = refuse(1, 0x0c);
    /// Feature Identifier Not Saveable.
    NOT_SAVEABLE = refuse(1, 0x0d);
    /// Feature Not Changeable.
    NOT_CHANGEABLE = refuse(1, 0x0e);
    /// Overlapping Range.
    OVERLAP = refuse(1, 0x14);
    /// Namespace Insufficient Capacity.
    NO_CAPACITY = refuse(1, 0x15);
    /// Namespace Identifier Unavailable.
    NO_NAMESPACE_ID = refuse(1, 0x16);
    /// Namespace Already Attached.
    ATTACHED = refuse(1, 0x18);
    /// Namespace Not Attached.
    NOT_ATTACHED = refuse(1, 0x1a);
    /// Controller List Invalid.
    CONTROLLER_LIST = refuse(1, 0x1c);
    /// Write Fault.
    WRITE_FAULT = again(2, 0x80);
    /// Unrecovered Read Error.
    UNRECOVERED_READ = refuse(2, 0x81);
    /// Compare Failure.
    COMPARE = refuse(2, 0x85);
}
