//! Bytes that are right: what the model answers.

use std::time::Duration;

use sheen_nvme_model::{Config, Controller, test_memory::HostMemory};

/// The answers of a model to these admin commands: opcode, namespace, dword 10. Each is 4096 bytes.
pub(crate) fn answers(commands: &[(u64, u64, u64)]) -> Vec<Vec<u8>> {
    let memory = HostMemory::new(1 << 16);
    let base = memory.base();
    let mut controller = Controller::new(Config::default()).unwrap();
    *controller.memory() = memory.seen_by_device();
    let now = Duration::ZERO;
    controller.write32(now, 0x24, 0x0007_0007);
    controller.write64(now, 0x28, base);
    controller.write64(now, 0x30, base + 4096);
    controller.write32(now, 0x14, 0x0046_0001);
    let mut found = Vec::new();
    for (number, (opcode, nsid, dword10)) in (0_u32..).zip(commands) {
        let entry = base + 64 * u64::from(number % 8);
        memory.put(base + 8192, &[0; 4096]);
        memory.put64(entry, opcode | (nsid << 32));
        memory.put64(entry + 24, base + 8192);
        memory.put64(entry + 40, *dword10);
        controller.doorbells().store(0, (number + 1) % 8);
        controller.doorbells().store(4, number % 8);
        controller.poll(now);
        let status = memory.get64(base + 4096 + 16 * u64::from(number % 8) + 8) >> 49;
        assert_eq!(status, 0, "opcode {opcode:#x} dword 10 {dword10:#x}");
        found.push(memory.get(base + 8192, 4096));
    }
    found
}

/// Get Log Page of so many bytes.
pub(crate) fn log(page: u64, bytes: u64) -> (u64, u64, u64) {
    (0x02, 0xffff_ffff, page | ((bytes / 4 - 1) << 16))
}

/// Identify.
pub(crate) fn identify(cns: u64, nsid: u64) -> (u64, u64, u64) {
    (0x06, nsid, cns)
}
