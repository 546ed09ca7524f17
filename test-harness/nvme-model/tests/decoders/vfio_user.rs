//! vfio-user messages, both ways: what a client sends to a server, what a server answers.

use sheen_nvme::transport::vfio_user::{
    Message, Request,
    message::{Header, Kind},
    region::Region,
    version::Version,
};

use super::damage::try_all;

fn requests() -> Vec<Vec<u8>> {
    let mut version = vec![1, 0];
    Version::default().encode(&mut version);
    let words = |command: u8, words: &[u32]| {
        let mut bytes = vec![command, 0];
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes
    };
    vec![
        version,
        words(2, &[32, 3, 0, 0, 0, 1, 0x1000, 0]),
        words(3, &[24, 0, 0, 1, 0x1000, 0]),
        words(4, &[16, 0, 0, 0]),
        words(5, &[64, 0, 0, 0, 0, 0, 0, 0]),
        words(7, &[16, 0, 2, 0]),
        words(8, &[20, 0x21, 2, 0, 1]),
        words(8, &[21, 0x22, 2, 0, 1, 1]),
        words(9, &[0x14, 0, 0, 4]),
        words(10, &[0x14, 0, 0, 4, 7]),
        words(13, &[]),
        words(15, &[1, 0, 0x14, 0, 0, 4, 7, 0]),
    ]
}

#[test]
fn request_decoders_bear_any_bytes() {
    try_all("requests", &requests(), |bytes| {
        let (head, payload) = bytes.split_at(bytes.len().min(2));
        let command = u16::from(head.first().copied().unwrap_or(0));
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        let header = Header { id: 1, command, payload_bytes, kind: Kind::Command };
        let message = Message { header, payload: payload.to_vec(), descriptors: Vec::new() };
        if let Ok(request) = Request::decode(message) {
            let _ = format!("{request:?}");
        }
    });
}

#[test]
fn header_decoders_bear_any_bytes() {
    let mut sample = Vec::new();
    Header { id: 7, command: 9, payload_bytes: 20, kind: Kind::Command }.encode(&mut sample);
    try_all("headers", &[sample], |bytes| {
        if let Some(bytes) = bytes.first_chunk()
            && let Ok(header) = Header::decode(bytes)
        {
            let mut again = Vec::new();
            header.encode(&mut again);
            let decoded = again.first_chunk().map(Header::decode);
            assert_eq!(decoded, Some(Ok(header)), "what is decoded can be said again");
        }
    });
}

#[test]
fn version_and_region_decoders_bear_any_bytes() {
    let mut version = Vec::new();
    Version::default().encode(&mut version);
    let mut region = Vec::new();
    let whole = Region {
        index: 0,
        flags: 7,
        size: 0x4000,
        offset: 0,
        mappable: vec![sheen_nvme::transport::vfio_user::region::Area { offset: 4096, size: 4096 }],
    };
    assert!(whole.encode(4096, &mut region));
    assert_eq!(Region::decode(0, &region).as_ref(), Ok(&whole));
    try_all("versions and regions", &[version, region], |bytes| {
        let _ = Version::decode(bytes);
        if let Ok(region) = Region::decode(0, bytes) {
            for area in &region.mappable {
                assert!(area.offset + area.size <= region.size, "{area:?} lies in the region");
            }
        }
    });
}
