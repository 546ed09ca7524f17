//! Features, asynchronous events, and doorbells.

use super::layout::bits;

/// Feature identifiers [NVMe-2.0c §5.27.1, figure 317].
pub mod fid {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub const POWER_MANAGEMENT: u8 = 0x02;
    /// Temperature Threshold.
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    /// Error Recovery [NVM-1.0c §4.1.3.2].
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache.
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    /// Number of Queues.
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Interrupt Coalescing.
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration.
    pub const INTERRUPT_VECTOR: u8 = 0x09;
    /// Write Atomicity Normal [NVM-1.0c §4.1.3.3].
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENTS: u8 = 0x0b;
    /// Autonomous Power State Transition.
    pub const POWER_STATE_TRANSITION: u8 = 0x0c;
    /// Timestamp.
    pub const TIMESTAMP: u8 = 0x0e;
    /// Keep Alive Timer.
    pub const KEEP_ALIVE: u8 = 0x0f;
    /// Host Behavior Support.
    pub const HOST_BEHAVIOR: u8 = 0x16;
    /// Software Progress Marker.
    pub const SOFTWARE_PROGRESS: u8 = 0x80;
}

bits! {
    /// Number of Queues: dword 11 of Set Features asks, completion dword 0 answers [NVMe-2.0c §5.27.1.5].
    NumberOfQueues: u32 {
        /// NSQR or NSQA: I/O submission queues, zero-based.
        15:0 nsq with_nsq: u16,
        /// NCQR or NCQA: I/O completion queues, zero-based.
        31:16 ncq with_ncq: u16,
    }
}

bits! {
    /// Volatile Write Cache, dword 11 [NVMe-2.0c §5.27.1.4].
    VolatileWriteCacheFeature: u32 {
        /// WCE, Volatile Write Cache Enable.
        0:0 wce with_wce: bool,
    }
}

bits! {
    /// Asynchronous Event Configuration, dword 11 [NVMe-2.0c §5.27.1.8].
    AsyncEventConfiguration: u32 {
        /// SMART / Health Critical Warnings, by the bits of Critical Warning.
        7:0 smart with_smart: u8,
        /// Namespace Attribute Notices.
        8:8 namespace_attribute with_namespace_attribute: bool,
        /// Firmware Activation Notices.
        9:9 firmware_activation with_firmware_activation: bool,
        /// Telemetry Log Notices.
        10:10 telemetry with_telemetry: bool,
    }
}

bits! {
    /// Completion dword 0 of Asynchronous Event Request [NVMe-2.0c §5.2.1].
    AsyncEvent: u32 {
        /// Asynchronous Event Type.
        2:0 event_type with_event_type: u8,
        /// Asynchronous Event Information.
        15:8 information with_information: u8,
        /// Log Page Identifier: what to read; reading it lets the next event of the type come.
        23:16 lid with_lid: u8,
    }
}

/// Event types [NVMe-2.0c §5.2.1].
pub mod event {
    /// Error status.
    pub const ERROR: u8 = 0;
    /// SMART / Health status.
    pub const SMART: u8 = 1;
    /// Notice.
    pub const NOTICE: u8 = 2;
    /// I/O command specific status.
    pub const IO_COMMAND: u8 = 6;
    /// Vendor specific.
    pub const VENDOR: u8 = 7;

    /// Error: Write to Invalid Doorbell Register.
    pub const ERROR_INVALID_DOORBELL: u8 = 0;
    /// Error: Invalid Doorbell Write Value.
    pub const ERROR_INVALID_DOORBELL_VALUE: u8 = 1;
    /// Error: Diagnostic Failure.
    pub const ERROR_DIAGNOSTIC: u8 = 2;
    /// Error: Persistent Internal Error.
    pub const ERROR_PERSISTENT: u8 = 3;
    /// Error: Transient Internal Error.
    pub const ERROR_TRANSIENT: u8 = 4;
    /// Error: Firmware Image Load Error.
    pub const ERROR_FIRMWARE_LOAD: u8 = 5;

    /// SMART: NVM Subsystem Reliability.
    pub const SMART_RELIABILITY: u8 = 0;
    /// SMART: Temperature Threshold.
    pub const SMART_TEMPERATURE: u8 = 1;
    /// SMART: Spare Below Threshold.
    pub const SMART_SPARE: u8 = 2;

    /// Notice: Namespace Attribute Changed.
    pub const NOTICE_NAMESPACE: u8 = 0;
    /// Notice: Firmware Activation Starting.
    pub const NOTICE_FIRMWARE_ACTIVATION: u8 = 1;
    /// Notice: Telemetry Log Changed.
    pub const NOTICE_TELEMETRY: u8 = 2;
}

/// Offset of a doorbell in BAR0: Submission Queue y Tail at 1000h + 2y strides, Completion Queue y Head at 1000h + (2y + 1)
/// strides [NVMe-PCIe-1.0c §3.1.2]; shadow doorbells and event indexes stand in the same order from 0
/// [NVMe-2.0c §5.8, figures 190 and 191].
#[must_use]
pub const fn doorbell_index(queue: u16, is_completion: bool) -> u32 {
    2 * queue as u32 + is_completion as u32
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_event_names_its_log_page() {
        let event = AsyncEvent(0x0002_0101);
        assert_eq!((event.event_type(), event.information(), event.lid()), (1, 1, 2));
        assert_eq!(NumberOfQueues::default().with_nsq(3).with_ncq(4).0, 0x0004_0003);
        assert_eq!(doorbell_index(3, true), 7);
    }
}
