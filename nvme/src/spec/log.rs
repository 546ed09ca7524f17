//! Log pages [NVMe-2.0c §5.16.1].

use super::{
    layout::{bits, layout},
    status::StatusField,
};

/// Log page identifiers [NVMe-2.0c §5.16.1, figure 202].
pub mod lid {
    /// Supported Log Pages.
    pub const SUPPORTED: u8 = 0x00;
    /// Error Information.
    pub const ERROR: u8 = 0x01;
    /// SMART / Health Information.
    pub const SMART: u8 = 0x02;
    /// Firmware Slot Information.
    pub const FIRMWARE_SLOT: u8 = 0x03;
    /// Changed Namespace List.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands Supported and Effects.
    pub const EFFECTS: u8 = 0x05;
    /// Device Self-test.
    pub const SELF_TEST: u8 = 0x06;
    /// Sanitize Status.
    pub const SANITIZE: u8 = 0x81;
}

layout! {
    /// An entry of the Error Information log [NVMe-2.0c §5.16.1.2].
    ErrorEntry: 64 {
        /// Error Count: a number of its own for each error; 0 the entry is not used.
        0 error_count: u64,
        /// Submission Queue ID; FFFFh no command.
        8 sqid: u16,
        /// Command ID; FFFFh no command.
        10 cid: u16,
        /// Status Field, with the phase tag.
        12 status: StatusField,
        /// Parameter Error Location: byte in bits 7:0, bit in bits 10:8.
        14 parameter_location: u16,
        /// LBA: the first with the error.
        16 lba: u64,
        /// Namespace.
        24 nsid: u32,
        /// Vendor Specific Information Available.
        28 vendor: u8,
        /// TRTYPE, Transport Type.
        29 trtype: u8,
        /// Command Specific Information.
        32 command_specific: u64,
        /// Transport Type Specific Information.
        40 transport_specific: u16,
    }
}

bits! {
    /// Critical Warning [NVMe-2.0c §5.16.1.3, byte 0].
    CriticalWarning: u8 {
        /// The available spare is below its threshold.
        0:0 spare with_spare: bool,
        /// A temperature is out of its thresholds.
        1:1 temperature with_temperature: bool,
        /// The subsystem's reliability is degraded.
        2:2 reliability with_reliability: bool,
        /// The media is read only.
        3:3 read_only with_read_only: bool,
        /// The volatile memory backup failed.
        4:4 backup with_backup: bool,
        /// The persistent memory region is read only or unreliable.
        5:5 persistent_memory with_persistent_memory: bool,
    }
}

layout! {
    /// SMART / Health Information [NVMe-2.0c §5.16.1.3].
    SmartLog: 512 {
        /// Critical Warning.
        0 critical_warning: CriticalWarning,
        /// Composite Temperature in kelvins.
        1 temperature: u16,
        /// Available Spare in percent.
        3 available_spare: u8,
        /// Available Spare Threshold in percent.
        4 available_spare_threshold: u8,
        /// Percentage Used; may exceed 100.
        5 percentage_used: u8,
        /// Endurance Group Critical Warning Summary.
        6 endurance_group_warning: u8,
        /// Data Units Read, in thousands of 512 bytes.
        32 data_units_read: u128,
        /// Data Units Written, in thousands of 512 bytes.
        48 data_units_written: u128,
        /// Host Read Commands.
        64 host_reads: u128,
        /// Host Write Commands.
        80 host_writes: u128,
        /// Controller Busy Time in minutes.
        96 busy_minutes: u128,
        /// Power Cycles.
        112 power_cycles: u128,
        /// Power On Hours.
        128 power_on_hours: u128,
        /// Unsafe Shutdowns.
        144 unsafe_shutdowns: u128,
        /// Media and Data Integrity Errors.
        160 media_errors: u128,
        /// Number of Error Information Log Entries.
        176 error_entries: u128,
        /// Warning Composite Temperature Time in minutes.
        192 warning_minutes: u32,
        /// Critical Composite Temperature Time in minutes.
        196 critical_minutes: u32,
        /// Temperature Sensors 1 to 8 in kelvins; 0 none.
        200 sensors: [u16; 8],
        /// Thermal Management Temperature 1 Transition Count.
        216 thermal_1_transitions: u32,
        /// Thermal Management Temperature 2 Transition Count.
        220 thermal_2_transitions: u32,
        /// Total Time For Thermal Management Temperature 1 in seconds.
        224 thermal_1_seconds: u32,
        /// Total Time For Thermal Management Temperature 2 in seconds.
        228 thermal_2_seconds: u32,
    }
}

bits! {
    /// AFI, Active Firmware Info [NVMe-2.0c §5.16.1.4, byte 0].
    ActiveFirmware: u8 {
        /// Slot whose firmware runs.
        2:0 active with_active: u8,
        /// Slot that will run after the next controller level reset; 0 not said.
        6:4 next with_next: u8,
    }
}

layout! {
    /// Firmware Slot Information [NVMe-2.0c §5.16.1.4].
    FirmwareSlotLog: 512 {
        /// AFI, Active Firmware Info.
        0 afi: ActiveFirmware,
        /// FRS1 to FRS7, Firmware Revision for Slot, ASCII; zeros: empty.
        8 revisions: [[u8; 8]; 7],
    }
}

layout! {
    /// Changed Namespace List [NVMe-2.0c §5.16.1.5]: FFFFFFFFh first: more than 1,024 changed.
    ChangedNamespaceLog: 4096 {
        /// Identifiers, ascending, ended by zero.
        0 nsids: [u32; 1024],
    }
}

bits! {
    /// SSTAT, Sanitize Status [NVMe-2.0c §5.16.1.25].
    SanitizeStatus: u16 {
        /// State: 0 never, 1 succeeded, 2 in progress, 3 failed, 4 succeeded without deallocation.
        2:0 state with_state: u8,
        /// Completed passes of an overwrite.
        7:3 passes with_passes: u8,
        /// Global Data Erased: nothing was written since.
        8:8 erased with_erased: bool,
    }
}

layout! {
    /// Sanitize Status log [NVMe-2.0c §5.16.1.25].
    SanitizeLog: 512 {
        /// SPROG, Sanitize Progress, in 65,536ths; FFFFh when none is under way.
        0 sprog: u16,
        /// SSTAT, Sanitize Status.
        2 sstat: SanitizeStatus,
        /// SCDW10, Sanitize Command Dword 10 Information.
        4 scdw10: u32,
        /// Estimated Time For Overwrite in seconds.
        8 overwrite_seconds: u32,
        /// Estimated Time For Block Erase in seconds.
        12 block_erase_seconds: u32,
        /// Estimated Time For Crypto Erase in seconds.
        16 crypto_erase_seconds: u32,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_health_log_has_its_numbers_where_the_figure_says() {
        let mut bytes = [0; 512];
        bytes[0] = 0b101;
        bytes[1..3].copy_from_slice(&310_u16.to_le_bytes());
        bytes[3..6].copy_from_slice(&[100, 10, 3]);
        bytes[128] = 44;
        bytes[160] = 2;
        bytes[202] = 55;
        let log = SmartLog::decode(&bytes);
        assert!(log.critical_warning.spare() && log.critical_warning.reliability());
        assert_eq!((log.temperature, log.available_spare, log.percentage_used), (310, 100, 3));
        assert_eq!((log.power_on_hours, log.media_errors, log.sensors[1]), (44, 2, 55));
        assert_eq!(log.encode(), bytes);
    }

    #[test]
    fn a_page_shorter_than_promised_is_no_page() {
        assert!(ErrorEntry::decode_prefix(&[0; 63]).is_none());
        assert!(SmartLog::decode_prefix(&[0; 511]).is_none());
        let log = FirmwareSlotLog::decode_prefix(&[0x21; 512]).unwrap();
        assert_eq!((log.afi.active(), log.afi.next(), log.revisions[6]), (1, 2, [0x21; 8]));
    }
}
