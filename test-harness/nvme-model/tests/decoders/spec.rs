//! NVMe structures: read as the model writes them, and whatever is done to them.

use sheen_nvme::spec::{
    entry::Cqe,
    identify::{IdentifyController, IdentifyNamespace, namespace_descriptors, namespace_list},
    layout::text,
    log::{ChangedNamespaceLog, ErrorEntry, FirmwareSlotLog, SanitizeLog, SmartLog},
};

use super::{
    damage::try_all,
    samples::{answers, identify, log},
};

fn page(bytes: &[u8]) -> [u8; 4096] {
    let mut page = [0; 4096];
    let end = bytes.len().min(4096);
    page[..end].copy_from_slice(&bytes[..end]);
    page
}

#[test]
fn identify_says_what_the_model_wrote() {
    let pages = answers(&[identify(1, 0), identify(0, 1), identify(2, 0), identify(3, 1)]);
    let controller = IdentifyController::decode(&page(&pages[0]));
    assert_eq!(text(&controller.sn), "SHEEN0001");
    assert_eq!(text(&controller.mn), "Sheen NVMe model");
    assert_eq!((controller.mdts, controller.cntlid, controller.nn), (8, 1, 16));
    assert_eq!((controller.aerl, controller.acl, controller.elpe), (3, 3, 63));
    assert_eq!(controller.tnvmcap, 128 << 20);
    assert_eq!(controller.unvmcap, 64 << 20);
    let (oacs, oncs) = (controller.oacs, controller.oncs);
    assert!(oacs.format() && oacs.firmware() && oacs.namespaces() && !oacs.doorbell_buffer());
    assert!(oncs.compare() && oncs.dataset_management() && oncs.write_zeroes() && oncs.verify());
    let namespace = IdentifyNamespace::decode(&page(&pages[1]));
    assert_eq!((namespace.nsze, namespace.nlbaf), ((64 << 20) / 4096, 1));
    assert_eq!(namespace.format().map(|format| format.lbads()), Some(12));
    assert_eq!(namespace_list(&page(&pages[2]), 0), Ok(vec![1]));
    assert_eq!(namespace_descriptors(&page(&pages[3])).len(), 3);
}

#[test]
fn logs_say_what_the_model_wrote() {
    let pages = answers(&[log(2, 512), log(3, 512), log(0x81, 512)]);
    let smart = SmartLog::decode_prefix(&pages[0]).unwrap();
    assert_eq!((smart.temperature, smart.available_spare, smart.power_cycles), (313, 100, 1));
    let firmware = FirmwareSlotLog::decode_prefix(&pages[1]).unwrap();
    assert_eq!((firmware.afi.active(), firmware.revisions[0]), (1, *b"MODEL1.0"));
    let sanitize = SanitizeLog::decode_prefix(&pages[2]).unwrap();
    assert_eq!((sanitize.sprog, sanitize.sstat.state()), (0xffff, 0));
}

#[test]
fn identify_decoders_bear_any_bytes() {
    let samples =
        answers(&[identify(0, 1), identify(1, 0), identify(2, 0), identify(3, 1), identify(6, 0)]);
    try_all("identify", &samples, |bytes| {
        let page = page(bytes);
        let controller = IdentifyController::decode(&page);
        let _ = (text(&controller.sn), text(&controller.subnqn), format!("{controller:?}"));
        assert_eq!(IdentifyController::decode(&controller.encode()), controller);
        let namespace = IdentifyNamespace::decode(&page);
        let _ = (namespace.format(), namespace.formats().len());
        for identifier in namespace_descriptors(&page) {
            let _ = format!("{identifier:?}");
        }
        if let Ok(list) = namespace_list(&page, 0) {
            assert!(list.is_sorted() && !list.contains(&0));
        }
    });
}

#[test]
fn log_decoders_bear_any_bytes() {
    let mut samples = answers(&[log(1, 4096), log(2, 512), log(3, 512), log(4, 4096)]);
    samples.iter_mut().zip([64, 512, 512, 4096]).for_each(|(page, bytes)| page.truncate(bytes));
    try_all("logs", &samples, |bytes| {
        let _ = ErrorEntry::decode_prefix(bytes).map(|entry| format!("{entry:?}"));
        let _ = SmartLog::decode_prefix(bytes).map(|log| format!("{log:?}"));
        let _ = FirmwareSlotLog::decode_prefix(bytes).map(|log| format!("{log:?}"));
        let _ = ChangedNamespaceLog::decode_prefix(bytes).map(|log| format!("{log:?}"));
        let _ = SanitizeLog::decode_prefix(bytes).map(|log| format!("{log:?}"));
    });
}

#[test]
fn completions_bear_any_bytes() {
    try_all("completions", &[vec![0; 16], vec![0xff; 16]], |bytes| {
        let word = |at: usize| {
            let mut word = [0; 8];
            let part = bytes.get(at..).unwrap_or_default();
            let length = part.len().min(8);
            word[..length].copy_from_slice(&part[..length]);
            u64::from_le_bytes(word)
        };
        let entry = Cqe::from_words([word(0), word(8)]);
        let field = entry.tail.status_field();
        let _ = (entry.dword0(), field.status().to_string(), format!("{entry:?} {field:?}"));
    });
}
