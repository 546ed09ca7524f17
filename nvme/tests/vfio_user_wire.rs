//! The vfio-user wire, field by field, against the specification.
//!
//! Every vector below was written by hand from the tables of "vfio-user Protocol Specification" (QEMU
//! `docs/interop/vfio-user.rst` at commit 1053bb627cf5); the heading it comes from stands above it. Each field has a
//! value that shows its place: the byte `0xN1` is the lowest of field number N. Nothing here is made by our encoder.

use sheen_nvme::transport::vfio_user::{
    interrupts::{Action, Data, IrqSetHead},
    message::{
        Command, DeviceInfo, DmaAccess, DmaMap, DmaUnmap, Header, HeaderError, IrqInfo, Kind,
        RegionAccess, RegionIoFds, SingleWrite, SubRegionIo,
    },
    region::{Area, Region, RegionError, RegionHead},
    version::{Capabilities, TwinSocket, Version},
};

/// Checks both directions of a fixed layout, that every shorter prefix is refused, and its size.
macro_rules! both_ways {
    ($kind:ident, $bytes:expr, $value:expr) => {{
        let bytes: &[u8] = $bytes;
        let mut encoded = Vec::new();
        $value.encode(&mut encoded);
        assert_eq!(encoded, bytes, concat!(stringify!($kind), " as written"));
        assert_eq!($kind::decode(bytes), Some($value), concat!(stringify!($kind), " as read"));
        assert_eq!($kind::BYTES, bytes.len());
        for short in 0..bytes.len() {
            assert_eq!($kind::decode(&bytes[..short]), None, "{short} bytes");
        }
    }};
}

#[test]
fn commands_have_the_numbers_of_the_table() {
    // §Commands
    let table: [(u16, Command); 17] = [
        (1, Command::Version),
        (2, Command::DmaMap),
        (3, Command::DmaUnmap),
        (4, Command::DeviceGetInfo),
        (5, Command::DeviceGetRegionInfo),
        (6, Command::DeviceGetRegionIoFds),
        (7, Command::DeviceGetIrqInfo),
        (8, Command::DeviceSetIrqs),
        (9, Command::RegionRead),
        (10, Command::RegionWrite),
        (11, Command::DmaRead),
        (12, Command::DmaWrite),
        (13, Command::DeviceReset),
        (15, Command::RegionWriteMulti),
        (16, Command::DeviceFeature),
        (17, Command::MigDataRead),
        (18, Command::MigDataWrite),
    ];
    assert_eq!(Command::ALL.len(), table.len());
    for (number, command) in table {
        assert_eq!(command.number(), number);
        assert_eq!(Command::from_number(number), Some(command));
    }
    for absent in [0, 14, 19, u16::MAX] {
        assert_eq!(Command::from_number(absent), None);
    }
}

#[test]
fn the_header_is_the_table_of_the_section_header() {
    // §Header: Message ID 0/2, Command 2/2, Message size 4/4, Flags 8/4 (type 0-3, No_reply 4, Error 5), Error 12/4.
    let cases: [([u8; 16], Kind, u32); 5] = [
        ([0x12, 0x11, 9, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Kind::Command, 16),
        ([0x12, 0x11, 9, 0, 16, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0], Kind::Posted, 0),
        ([0x12, 0x11, 9, 0, 16, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], Kind::Reply, 256),
        ([0x12, 0x11, 9, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 17, 0, 0, 0], Kind::Failure(17), 0),
        ([0x12, 0x11, 9, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 5, 0, 0, 0], Kind::Failure(5), 0),
    ];
    for (bytes, kind, payload_bytes) in cases {
        let header = Header { id: 0x1112, command: 9, payload_bytes, kind };
        assert_eq!(Header::decode(&bytes), Ok(header));
        let mut encoded = Vec::new();
        header.encode(&mut encoded);
        assert_eq!(encoded, bytes);
    }
    assert_eq!(Header::BYTES, 16);
    // "It may be zero even if the Error bit is set": a failure all the same. "Reserved in a command message": ignored.
    let mut bytes = [0, 0, 1, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(Header::decode(&bytes).unwrap().kind, Kind::Failure(5));
    bytes[8] = 0;
    bytes[12] = 9;
    assert_eq!(Header::decode(&bytes).unwrap().kind, Kind::Command);
    // Sizes "including the header"; types 2..=15 do not exist.
    bytes[4] = 15;
    assert_eq!(Header::decode(&bytes), Err(HeaderError::Size(15)));
    bytes[4] = 16;
    bytes[8] = 2;
    assert_eq!(Header::decode(&bytes), Err(HeaderError::Type(2)));
    bytes[8] = 0;
    bytes[4..8].copy_from_slice(&[0x31, 0, 0x10, 0]);
    assert_eq!(Header::decode(&bytes), Err(HeaderError::Size(0x10_0031)));
}

#[test]
fn version_is_two_numbers_and_json_that_ends_with_nul() {
    // §VFIO_USER_VERSION, Request: version major 0/2, version minor 2/2, version data 4/variable, NUL included.
    let json = concat!(
        "{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576,\"max_dma_maps\":65535,",
        "\"pgsizes\":2101248,\"twin_socket\":{\"supported\":true,\"fd_index\":0},\"write_multiple\":true}}\0"
    );
    let bytes = [&[0x00, 0x00, 0x02, 0x00], json.as_bytes()].concat();
    let version = Version {
        major: 0,
        minor: 2,
        capabilities: Capabilities {
            max_msg_fds: Some(8),
            max_data_xfer_size: Some(1 << 20),
            max_dma_maps: Some(65_535),
            pgsizes: Some(4096 | 2 << 20),
            twin_socket: Some(TwinSocket { supported: true, fd_index: Some(0) }),
            write_multiple: Some(true),
        },
    };
    assert_eq!(Version::decode(&bytes), Ok(version));
    let mut encoded = Vec::new();
    version.encode(&mut encoded);
    assert_eq!(encoded, bytes);
    // "version data ... Optional"; defaults from the table of capabilities.
    let bare = Version::decode(&[0x21, 0x11, 0x22, 0x12]).unwrap();
    assert_eq!((bare.major, bare.minor), (0x1121, 0x1222));
    assert_eq!(bare.capabilities.descriptors_max(), 1);
    assert_eq!(bare.capabilities.transfer_bytes_max(), 1_048_576);
    assert_eq!(bare.capabilities.dma_maps_max(), 65_535);
}

#[test]
fn dma_map_is_its_table() {
    // §VFIO_USER_DMA_MAP, Request: argsz 0/4, flags 4/4 (0 readable, 1 writeable), offset 8/8, address 16/8, size 24/8.
    let bytes = [
        0x20, 0, 0, 0, 0x03, 0, 0, 0, //
        0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, //
        0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, //
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
    ];
    let value = DmaMap {
        argsz: 32,
        flags: 3,
        offset: 0x3837_3635_3433_3231,
        address: 0x4847_4645_4443_4241,
        size: 0x5857_5655_5453_5251,
    };
    both_ways!(DmaMap, &bytes, value);
}

#[test]
fn dma_unmap_is_its_table() {
    // §VFIO_USER_DMA_UNMAP, Request: argsz 0/4, flags 4/4, address 8/8, size 16/8. The reply is the entry again.
    let bytes = [
        0x18, 0, 0, 0, 0, 0, 0, 0, //
        0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, //
        0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    ];
    let value = DmaUnmap {
        argsz: 24,
        flags: 0,
        address: 0x3837_3635_3433_3231,
        size: 0x4847_4645_4443_4241,
    };
    both_ways!(DmaUnmap, &bytes, value);
}

#[test]
fn device_info_is_its_table() {
    // §VFIO_USER_DEVICE_GET_INFO: argsz 0/4, flags 4/4 (0 RESET, 1 PCI), num_regions 8/4, num_irqs 12/4.
    let bytes = [0x10, 0, 0, 0, 0x03, 0, 0, 0, 0x09, 0, 0, 0, 0x05, 0, 0, 0];
    both_ways!(DeviceInfo, &bytes, DeviceInfo { argsz: 16, flags: 3, num_regions: 9, num_irqs: 5 });
}

#[test]
fn region_info_is_its_table_and_its_capability_chain() {
    // §VFIO_USER_DEVICE_GET_REGION_INFO, Reply: argsz 0/4, flags 4/4 (0 READ, 1 WRITE, 2 MMAP, 3 CAPS), index 8/4,
    // cap_offset 12/4, size 16/8, offset 24/8.
    let head = [
        0x40, 0, 0, 0, 0x0f, 0, 0, 0, 0x00, 0, 0, 0, 0x20, 0, 0, 0, //
        0x00, 0x40, 0, 0, 0, 0, 0, 0, //
        0x00, 0, 0, 0, 0x01, 0, 0, 0,
    ];
    let value = RegionHead {
        argsz: 64,
        flags: 15,
        index: 0,
        cap_offset: 32,
        size: 0x4000,
        offset: 1 << 32,
    };
    both_ways!(RegionHead, &head, value);
    // §VFIO cap header format: id 0/2, version 2/2, next 4/4. §VFIO sparse mmap cap header: version 1.
    // §VFIO region info cap sparse mmap: nr_areas 0/4, reserved 4/4, then offset/8 and size/8 for each area.
    let sparse = [
        0x01, 0, 0x01, 0, 0, 0, 0, 0, //
        0x01, 0, 0, 0, 0, 0, 0, 0, //
        0x00, 0x10, 0, 0, 0, 0, 0, 0, //
        0x00, 0x20, 0, 0, 0, 0, 0, 0,
    ];
    let bytes = [&head[..], &sparse[..]].concat();
    let region = Region {
        index: 0,
        flags: 7,
        size: 0x4000,
        offset: 1 << 32,
        mappable: vec![Area { offset: 0x1000, size: 0x2000 }],
    };
    assert_eq!(Region::decode(0, &bytes).unwrap(), region);
    let mut encoded = Vec::new();
    assert!(region.encode(4096, &mut encoded));
    assert_eq!(encoded, bytes);
    // §Message sizes: "the full payload is not included in the reply, but the argsz field ... indicates the needed size".
    let mut cut = Vec::new();
    assert!(!region.encode(63, &mut cut));
    assert_eq!((cut.len(), cut[0], cut[4], cut[12]), (32, 0x40, 0x07, 0));
    assert_eq!(Region::decode(0, &cut), Err(RegionError::Room(64)));
    // "next ... is relative to the beginning of the VFIO region info structure": an unknown capability first.
    let mut chained = bytes.clone();
    chained.splice(32..32, [0x02, 0, 0x01, 0, 0x30, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]);
    chained[0] = 0x50;
    assert_eq!(Region::decode(0, &chained).unwrap(), region);
}

#[test]
fn region_io_fds_is_its_table() {
    // §VFIO_USER_DEVICE_GET_REGION_IO_FDS: argsz 0/4, flags 4/4, index 8/4, count 12/4.
    let bytes = [0x38, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0x01, 0, 0, 0];
    both_ways!(RegionIoFds, &bytes, RegionIoFds { argsz: 56, flags: 0, index: 2, count: 1 });
    // §Sub-Region IO FD info format (ioeventfd): offset 0/8, size 8/8, fd_index 16/4, type 20/4, flags 24/4,
    // padding 28/4, datamatch 32/8.
    let bytes = [
        0x11, 0, 0, 0, 0, 0, 0, 0x18, 0x21, 0, 0, 0, 0, 0, 0, 0x28, //
        0x31, 0, 0, 0, 0x01, 0, 0, 0, 0x51, 0, 0, 0, 0, 0, 0, 0, //
        0x71, 0, 0, 0, 0, 0, 0, 0x78,
    ];
    let value = SubRegionIo {
        offset: 0x1800_0000_0000_0011,
        size: 0x2800_0000_0000_0021,
        fd_index: 0x31,
        kind: 1,
        flags: 0x51,
        padding: 0,
        data: 0x7800_0000_0000_0071,
    };
    both_ways!(SubRegionIo, &bytes, value);
}

#[test]
fn irq_info_and_set_irqs_are_their_tables() {
    // §VFIO_USER_DEVICE_GET_IRQ_INFO: argsz 0/4, flags 4/4, index 8/4, count 12/4.
    let bytes = [0x10, 0, 0, 0, 0x09, 0, 0, 0, 0x02, 0, 0, 0, 0x41, 0x42, 0, 0];
    both_ways!(IrqInfo, &bytes, IrqInfo { argsz: 16, flags: 9, index: 2, count: 0x4241 });
    // §VFIO_USER_DEVICE_SET_IRQS: argsz 0/4, flags 4/4 (0 NONE, 1 BOOL, 2 EVENTFD, 3 MASK, 4 UNMASK, 5 TRIGGER),
    // index 8/4, start 12/4, count 16/4, data 20.
    let bytes = [0x14, 0, 0, 0, 0x24, 0, 0, 0, 0x02, 0, 0, 0, 0x41, 0x42, 0, 0, 0x03, 0, 0, 0];
    let value = IrqSetHead { argsz: 20, flags: 0x24, index: 2, start: 0x4241, count: 3 };
    both_ways!(IrqSetHead, &bytes, value);
    assert_eq!(IrqSetHead::new(Data::Eventfds, Action::Trigger, 2, 0x4241, 3), value);
    let bits = [(Data::None, 0x01), (Data::Bools, 0x02), (Data::Eventfds, 0x04)];
    let actions = [(Action::Mask, 0x08), (Action::Unmask, 0x10), (Action::Trigger, 0x20)];
    for (data, low) in bits {
        for (action, high) in actions {
            assert_eq!(IrqSetHead { flags: low | high, ..value }.parts(), Some((data, action)));
        }
    }
    // "The flags are mutually exclusive for both sets."
    for flags in [0, 0x04, 0x20, 0x26, 0x34, 0x64] {
        assert_eq!(IrqSetHead { flags, ..value }.parts(), None, "{flags:#x}");
    }
    // "argsz is the size of the VFIO IRQ set request payload, including any data field."
    assert_eq!(IrqSetHead::new(Data::Bools, Action::Mask, 2, 0, 3).argsz, 23);
}

#[test]
fn accesses_are_their_tables() {
    // §VFIO_USER_REGION_READ and §VFIO_USER_REGION_WRITE: offset 0/8, region 8/4, count 12/4, data 16.
    let bytes =
        [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x07, 0, 0, 0, 0x31, 0x32, 0x33, 0x34];
    let value = RegionAccess { offset: 0x1817_1615_1413_1211, region: 7, count: 0x3433_3231 };
    both_ways!(RegionAccess, &bytes, value);
    // §VFIO_USER_DMA_READ and §VFIO_USER_DMA_WRITE: address 0/8, count 8/8, data 16.
    let bytes = [
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27,
        0x28,
    ];
    let value = DmaAccess { address: 0x1817_1615_1413_1211, count: 0x2827_2625_2423_2221 };
    both_ways!(DmaAccess, &bytes, value);
    // §Single Device Write Format: offset 0/8, region 8/4, count 12/4, data 16/8.
    let bytes = [
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0, 0, 0, 0, 0x04, 0, 0, 0, //
        0x41, 0x42, 0x43, 0x44, 0, 0, 0, 0,
    ];
    let value =
        SingleWrite { offset: 0x1817_1615_1413_1211, region: 0, count: 4, data: 0x4443_4241 };
    both_ways!(SingleWrite, &bytes, value);
}
