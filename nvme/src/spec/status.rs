//! Status of a completed command [NVMe-2.0c §3.3.3.2.1; NVM-1.0c §3.1].

use std::fmt;

use super::layout::bits;

bits! {
    /// Bits 31..16 of completion dword 3: phase tag and status field [NVMe-2.0c §3.3.3.2].
    StatusField: u16 {
        /// P, Phase Tag.
        0:0 phase with_phase: bool,
        /// SC, Status Code.
        8:1 sc with_sc: u8,
        /// SCT, Status Code Type.
        11:9 sct with_sct: u8,
        /// CRD, Command Retry Delay: which of CRDT1..3 of Identify Controller to wait; 0 none.
        13:12 crd with_crd: u8,
        /// M, More: the error log has more about it.
        14:14 more with_more: bool,
        /// DNR, Do Not Retry.
        15:15 dnr with_dnr: bool,
    }
}

/// Status code type and code: SCT in bits 10..8, SC in bits 7..0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u16);

impl StatusField {
    /// Type and code.
    #[must_use]
    pub fn status(self) -> Status {
        Status(u16::from(self.sct()) << 8 | u16::from(self.sc()))
    }
}

/// SCT, Status Code Type [NVMe-2.0c §3.3.3.2.1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusType {
    /// 0h, Generic Command Status.
    Generic,
    /// 1h, Command Specific Status.
    CommandSpecific,
    /// 2h, Media and Data Integrity Errors.
    Media,
    /// 3h, Path Related Status.
    Path,
    /// 7h, Vendor Specific.
    Vendor,
    /// 4h to 6h, reserved.
    Reserved,
}

macro_rules! statuses {
    ($( $value:literal $name:ident $text:literal ),* $(,)?) => {
        impl Status {
            $(
                #[doc = $text]
                pub const $name: Self = Self($value);
            )*

            /// The name the specification gives it. None: it has none that we know.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $value => Some($text), )*
                    _ => None,
                }
            }
        }
    };
}

// Generic: [NVMe-2.0c §3.3.3.2.1.1]; 80h to 9Fh of it: [NVM-1.0c §3.1.2.1]. Command specific: [NVMe-2.0c §3.3.3.2.1.2] and
// [NVM-1.0c §3.1.2.2]. Media: [NVMe-2.0c §3.3.3.2.1.3] and [NVM-1.0c §3.1.2.3]. Path: [NVMe-2.0c §3.3.3.2.1.4].
statuses! {
    0x000 SUCCESS "Successful Completion",
    0x001 INVALID_OPCODE "Invalid Command Opcode",
    0x002 INVALID_FIELD "Invalid Field in Command",
    0x003 COMMAND_ID_CONFLICT "Command ID Conflict",
    0x004 DATA_TRANSFER_ERROR "Data Transfer Error",
    0x005 ABORTED_POWER_LOSS "Commands Aborted due to Power Loss Notification",
    0x006 INTERNAL_ERROR "Internal Error",
    0x007 ABORT_REQUESTED "Command Abort Requested",
    0x008 ABORTED_SQ_DELETION "Command Aborted due to SQ Deletion",
    0x009 ABORTED_FAILED_FUSED "Command Aborted due to Failed Fused Command",
    0x00a ABORTED_MISSING_FUSED "Command Aborted due to Missing Fused Command",
    0x00b INVALID_NAMESPACE_OR_FORMAT "Invalid Namespace or Format",
    0x00c COMMAND_SEQUENCE_ERROR "Command Sequence Error",
    0x00d INVALID_SGL_SEGMENT_DESCRIPTOR "Invalid SGL Segment Descriptor",
    0x00e INVALID_SGL_DESCRIPTOR_COUNT "Invalid Number of SGL Descriptors",
    0x00f DATA_SGL_LENGTH_INVALID "Data SGL Length Invalid",
    0x010 METADATA_SGL_LENGTH_INVALID "Metadata SGL Length Invalid",
    0x011 SGL_DESCRIPTOR_TYPE_INVALID "SGL Descriptor Type Invalid",
    0x012 INVALID_USE_OF_CMB "Invalid Use of Controller Memory Buffer",
    0x013 PRP_OFFSET_INVALID "PRP Offset Invalid",
    0x014 ATOMIC_WRITE_UNIT_EXCEEDED "Atomic Write Unit Exceeded",
    0x015 OPERATION_DENIED "Operation Denied",
    0x016 SGL_OFFSET_INVALID "SGL Offset Invalid",
    0x018 HOST_ID_INCONSISTENT_FORMAT "Host Identifier Inconsistent Format",
    0x019 KEEP_ALIVE_EXPIRED "Keep Alive Timer Expired",
    0x01a KEEP_ALIVE_INVALID "Keep Alive Timeout Invalid",
    0x01b ABORTED_PREEMPT "Command Aborted due to Preempt and Abort",
    0x01c SANITIZE_FAILED "Sanitize Failed",
    0x01d SANITIZE_IN_PROGRESS "Sanitize In Progress",
    0x01e SGL_DATA_BLOCK_GRANULARITY_INVALID "SGL Data Block Granularity Invalid",
    0x01f COMMAND_NOT_SUPPORTED_FOR_CMB_QUEUE "Command Not Supported for Queue in CMB",
    0x020 NAMESPACE_WRITE_PROTECTED "Namespace is Write Protected",
    0x021 COMMAND_INTERRUPTED "Command Interrupted",
    0x022 TRANSIENT_TRANSPORT_ERROR "Transient Transport Error",
    0x023 PROHIBITED_BY_LOCKDOWN "Command Prohibited by Command and Feature Lockdown",
    0x024 ADMIN_MEDIA_NOT_READY "Admin Command Media Not Ready",
    0x080 LBA_OUT_OF_RANGE "LBA Out of Range",
    0x081 CAPACITY_EXCEEDED "Capacity Exceeded",
    0x082 NAMESPACE_NOT_READY "Namespace Not Ready",
    0x083 RESERVATION_CONFLICT "Reservation Conflict",
    0x084 FORMAT_IN_PROGRESS "Format In Progress",
    0x100 COMPLETION_QUEUE_INVALID "Completion Queue Invalid",
    0x101 INVALID_QUEUE_IDENTIFIER "Invalid Queue Identifier",
    0x102 INVALID_QUEUE_SIZE "Invalid Queue Size",
    0x103 ABORT_LIMIT_EXCEEDED "Abort Command Limit Exceeded",
    0x105 ASYNC_EVENT_LIMIT_EXCEEDED "Asynchronous Event Request Limit Exceeded",
    0x106 INVALID_FIRMWARE_SLOT "Invalid Firmware Slot",
    0x107 INVALID_FIRMWARE_IMAGE "Invalid Firmware Image",
    0x108 INVALID_INTERRUPT_VECTOR "Invalid Interrupt Vector",
    0x109 INVALID_LOG_PAGE "Invalid Log Page",
    0x10a INVALID_FORMAT "Invalid Format",
    0x10b FIRMWARE_NEEDS_CONVENTIONAL_RESET "Firmware Activation Requires Conventional Reset",
    0x10c INVALID_QUEUE_DELETION "Invalid Queue Deletion",
    0x10d FEATURE_NOT_SAVEABLE "Feature Identifier Not Saveable",
    0x10e FEATURE_NOT_CHANGEABLE "Feature Not Changeable",
    0x10f FEATURE_NOT_NAMESPACE_SPECIFIC "Feature Not Namespace Specific",
    0x110 FIRMWARE_NEEDS_SUBSYSTEM_RESET "Firmware Activation Requires NVM Subsystem Reset",
    0x111 FIRMWARE_NEEDS_CONTROLLER_RESET "Firmware Activation Requires Controller Level Reset",
    0x112 FIRMWARE_NEEDS_MAXIMUM_TIME "Firmware Activation Requires Maximum Time Violation",
    0x113 FIRMWARE_ACTIVATION_PROHIBITED "Firmware Activation Prohibited",
    0x114 OVERLAPPING_RANGE "Overlapping Range",
    0x115 NAMESPACE_INSUFFICIENT_CAPACITY "Namespace Insufficient Capacity",
    0x116 NAMESPACE_ID_UNAVAILABLE "Namespace Identifier Unavailable",
    0x118 NAMESPACE_ALREADY_ATTACHED "Namespace Already Attached",
    0x119 NAMESPACE_IS_PRIVATE "Namespace Is Private",
    0x11a NAMESPACE_NOT_ATTACHED "Namespace Not Attached",
    0x11b THIN_PROVISIONING_NOT_SUPPORTED "Thin Provisioning Not Supported",
    0x11c CONTROLLER_LIST_INVALID "Controller List Invalid",
    0x11d SELF_TEST_IN_PROGRESS "Device Self-test In Progress",
    0x11e BOOT_PARTITION_WRITE_PROHIBITED "Boot Partition Write Prohibited",
    0x11f INVALID_CONTROLLER_IDENTIFIER "Invalid Controller Identifier",
    0x123 SANITIZE_PROHIBITED_WITH_PMR "Sanitize Prohibited While Persistent Memory Region is Enabled",
    0x124 ANA_GROUP_IDENTIFIER_INVALID "ANA Group Identifier Invalid",
    0x125 ANA_ATTACH_FAILED "ANA Attach Failed",
    0x127 NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED "Namespace Attachment Limit Exceeded",
    0x129 COMMAND_SET_NOT_SUPPORTED "I/O Command Set Not Supported",
    0x12a COMMAND_SET_NOT_ENABLED "I/O Command Set Not Enabled",
    0x180 CONFLICTING_ATTRIBUTES "Conflicting Attributes",
    0x181 INVALID_PROTECTION_INFORMATION "Invalid Protection Information",
    0x182 WRITE_TO_READ_ONLY_RANGE "Attempted Write to Read Only Range",
    0x183 COMMAND_SIZE_LIMIT_EXCEEDED "Command Size Limit Exceeded",
    0x280 WRITE_FAULT "Write Fault",
    0x281 UNRECOVERED_READ_ERROR "Unrecovered Read Error",
    0x282 GUARD_CHECK_ERROR "End-to-end Guard Check Error",
    0x283 APPLICATION_TAG_CHECK_ERROR "End-to-end Application Tag Check Error",
    0x284 REFERENCE_TAG_CHECK_ERROR "End-to-end Reference Tag Check Error",
    0x285 COMPARE_FAILURE "Compare Failure",
    0x286 ACCESS_DENIED "Access Denied",
    0x287 DEALLOCATED_OR_UNWRITTEN "Deallocated or Unwritten Logical Block",
    0x288 STORAGE_TAG_CHECK_ERROR "End-to-end Storage Tag Check Error",
    0x300 INTERNAL_PATH_ERROR "Internal Path Error",
    0x301 ASYMMETRIC_ACCESS_PERSISTENT_LOSS "Asymmetric Access Persistent Loss",
    0x302 ASYMMETRIC_ACCESS_INACCESSIBLE "Asymmetric Access Inaccessible",
    0x303 ASYMMETRIC_ACCESS_TRANSITION "Asymmetric Access Transition",
    0x360 CONTROLLER_PATHING_ERROR "Controller Pathing Error",
    0x370 HOST_PATHING_ERROR "Host Pathing Error",
    0x371 ABORTED_BY_HOST "Command Aborted By Host",
}

impl Status {
    /// SCT.
    #[must_use]
    pub const fn status_type(self) -> StatusType {
        match self.0 >> 8 & 7 {
            0 => StatusType::Generic,
            1 => StatusType::CommandSpecific,
            2 => StatusType::Media,
            3 => StatusType::Path,
            7 => StatusType::Vendor,
            _ => StatusType::Reserved,
        }
    }

    /// The status field of a completion with this status and phase.
    #[must_use]
    pub fn field(self, phase: bool) -> StatusField {
        StatusField(self.0 << 1 | u16::from(phase))
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sct, sc) = (self.0 >> 8 & 7, self.0 & 0xff);
        match self.name() {
            Some(name) => write!(f, "{name} ({sct:x}h/{sc:02x}h)"),
            None => write!(f, "status type {sct:x}h code {sc:02x}h"),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_status_field_keeps_type_and_code_apart_from_its_flags() {
        let field = StatusField(0x281 << 1 | 1 << 15 | 1 << 14 | 1);
        assert_eq!(field.status(), Status::UNRECOVERED_READ_ERROR);
        assert!(field.dnr() && field.more() && field.phase());
        assert_eq!(field.status().status_type(), StatusType::Media);
        assert_eq!(Status::COMPARE_FAILURE.field(true), StatusField(0x50b));
    }

    #[test]
    fn a_status_is_shown_by_name_or_by_number() {
        assert_eq!(Status::LBA_OUT_OF_RANGE.to_string(), "LBA Out of Range (0h/80h)");
        assert_eq!(Status(0x7c1).to_string(), "status type 7h code c1h");
    }
}
