//! Registers, enable and disable, what must make a controller fail.

use std::time::Duration;

use sheen_nvme_model::{Config, Lie, Readiness};

use super::by_hand::{CC, Host};

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn capabilities_say_what_was_configured() {
    let config =
        Config { queue_entries_max: 77, doorbell_stride: 2, timeout_units: 9, ..Config::default() };
    let mut host = Host::new(config);
    let cap = host.controller.read64(host.now, 0);
    assert_eq!(cap & 0xffff, 76, "MQES is zero-based");
    assert_eq!((cap >> 24) & 0xff, 9, "TO");
    assert_eq!((cap >> 32) & 0xf, 2, "DSTRD");
    assert_eq!((cap >> 37) & 1, 1, "CSS: NVM");
    assert_eq!(host.controller.read32(host.now, 8), 0x0002_0000, "VS");
    assert_eq!(host.controller.read32(host.now, 0xf00), 0, "reserved");
}

#[test]
fn ready_follows_enable_after_the_configured_time_and_falls_with_disable() {
    let enable = Readiness::After(5 * MILLISECOND);
    let disable = Readiness::After(3 * MILLISECOND);
    let mut host = Host::new(Config { enable, disable, ..Config::default() });
    host.enable();
    assert_eq!(host.csts(), 0);
    host.now += 4 * MILLISECOND;
    assert_eq!(host.csts(), 0);
    host.now += MILLISECOND;
    assert_eq!(host.csts(), 1);
    host.controller.write32(host.now, 0x14, CC & !1);
    assert_eq!(host.csts(), 1);
    host.now += 3 * MILLISECOND;
    assert_eq!(host.csts(), 0);
    assert_ne!(host.controller.read64(host.now, 0x28), 0, "ASQ outlives the reset");
}

#[test]
fn a_reset_that_never_ends_never_ends() {
    let mut host = Host::new(Config { enable: Readiness::Never, ..Config::default() });
    host.enable();
    host.now += Duration::from_secs(3600);
    assert_eq!(host.csts(), 0);
    assert!(host.controller.is_stuck());
}

#[test]
fn impossible_settings_are_fatal() {
    for (register, value) in [(0x14, CC | (9 << 7)), (0x14, CC | (1 << 4))] {
        let mut host = Host::new(Config::default());
        host.enable();
        host.controller.write32(host.now, 0x14, 0);
        assert_eq!(host.csts(), 0);
        host.controller.write32(host.now, register, value);
        assert_eq!(host.csts(), 2, "CFS for {value:#x}");
    }
    let mut host = Host::new(Config::default());
    host.controller.write64(host.now, 0x28, 0x1000);
    host.controller.write64(host.now, 0x30, 0x2000);
    host.controller.write32(host.now, 0x24, 0x0007_0007);
    host.controller.write32(host.now, 0x14, CC);
    assert_eq!(host.csts(), 2, "queues in memory that is not mapped");
}

#[test]
fn a_shutdown_makes_the_cache_durable_and_says_when_it_is_done() {
    let mut host = Host::ready(Config::default(), 1);
    let page = host.pages(1);
    host.memory.put(page, &[7; 4096]);
    let write = host.transfer(1, 5, 1, page, 0);
    assert_eq!(host.run(1, write).status(), (0, 0));
    host.controller.write32(host.now, 0x14, CC | (1 << 14));
    assert_eq!((host.csts() >> 2) & 3, 2);
    assert_eq!(host.controller.cut_power(1).at_risk, 0);
}

#[test]
fn a_device_that_is_gone_reads_all_ones() {
    let mut host = Host::ready(Config::default(), 1);
    host.controller.remove_by_surprise();
    assert_eq!(host.csts(), u32::MAX);
    assert_eq!(host.controller.read64(host.now, 0), u64::MAX);
    host.controller.write32(host.now, 0x14, 0);
    assert_eq!(host.csts(), u32::MAX);
    assert_eq!(host.poll(), 0);
}

#[test]
fn an_announced_removal_happens_a_moment_later() {
    let mut host = Host::ready(Config::default(), 1);
    host.controller.remove_hot();
    assert_eq!(host.csts(), 1);
    host.now += Duration::from_secs(1);
    assert_eq!(host.csts(), u32::MAX);
}

#[test]
fn registers_lie_when_told_to() {
    let config = Config::default().lying(Lie::Capabilities(0)).lying(Lie::Version(0x0001_0000));
    let mut host = Host::new(config);
    assert_eq!(host.controller.read64(host.now, 0), 0);
    assert_eq!(host.controller.read32(host.now, 8), 0x0001_0000);
}
