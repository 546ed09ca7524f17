//! Controllers that say of themselves what cannot be: refused by name, or borne; never believed.

use std::time::{Duration, Instant};

use sheen_nvme::driver::{AttachError, NamespaceError, QueueError, QueuePair};
use sheen_nvme_model::{
    Config, Fault, Lie, Model, Pace, Rule, Status,
    command::admin,
    rig::{Rig, RigError},
};

use super::scene::options;

/// CAP of the model: contiguous queues, 1 s, the NVM command set.
const CAP: u64 = 1023 | (1 << 16) | (2 << 24) | (1 << 37);

fn attach(config: Config, rules: &[Rule]) -> (Model, Result<Rig, AttachError>) {
    let begun = Instant::now();
    let model = Model::new(config, Pace::Thread).unwrap();
    model.with(|controller, _| rules.iter().for_each(|rule| controller.plan().add(*rule)));
    let transport = Box::new(model.transport().unwrap());
    let attached = Rig::attach_with(transport, 16 << 20, options()).map_err(|error| match error {
        RigError::Attach(error) => error,
        RigError::Arena(error) => panic!("{error}"),
    });
    assert!(begun.elapsed() < Duration::from_secs(30), "in bounded time");
    (model, attached)
}

fn identify(cns: u8, offset: usize, bytes: &[u8]) -> Config {
    Config::default().lying(Lie::Identify { cns, offset, bytes: bytes.to_vec() })
}

/// Opens a queue pair on a controller that lies.
fn open(config: Config) -> Result<(), QueueError> {
    let (_model, attached) = attach(config, &[]);
    let rig = attached.unwrap();
    rig.pair(8).map(drop)
}

#[test]
fn impossible_capabilities_are_refused() {
    for (what, value) in [
        ("MQES 0", CAP & !0xffff),
        ("no NVM command set", CAP & !(1 << 37)),
        ("pages of 2 MiB at least", CAP | (9 << 48) | (9 << 52)),
        ("all zero", 0),
    ] {
        let (_model, attached) = attach(Config::default().lying(Lie::Capabilities(value)), &[]);
        let error = attached.map(drop).expect_err(what);
        assert!(matches!(error, AttachError::Impossible(_)), "{what}: {error}");
    }
}

#[test]
fn impossible_controllers_are_refused() {
    for (what, offset, bytes) in [
        ("submission entries of 2^4 bytes", 512, vec![0x44]),
        ("completion entries of 2^6 bytes", 513, vec![0x66]),
        ("no namespaces", 516, vec![0; 4]),
    ] {
        let (_model, attached) = attach(identify(1, offset, &bytes), &[]);
        let error = attached.map(drop).expect_err(what);
        assert!(matches!(error, AttachError::Impossible(_)), "{what}: {error}");
    }
}

#[test]
fn impossible_namespaces_are_refused_by_name() {
    let huge = vec![0xff; 16];
    for (what, offset, bytes, expected) in [
        ("no blocks", 0, vec![0; 8], "there is none"),
        ("2^64 blocks", 0, huge, "2^64"),
        ("more used than there are", 16, vec![0xff; 8], "NUSE"),
        ("a format that is not there", 26, vec![0x0f], "NLBAF"),
        ("blocks of 2^255 bytes", 132, vec![0, 0, 255, 0], "2^255"),
        ("metadata", 132, vec![8, 0, 12, 0], "metadata"),
        ("protection", 29, vec![1], "protection"),
    ] {
        let error = open(identify(0, offset, &bytes)).expect_err(what);
        assert!(matches!(error, QueueError::Namespace(_)), "{what}: {error}");
        assert!(error.to_string().contains(expected), "{what}: {error}");
    }
}

#[test]
fn another_command_set_is_refused_by_name() {
    let refused = open(identify(3, 36, &[2])).unwrap_err();
    assert_eq!(refused, QueueError::Namespace(NamespaceError::CommandSet { nsid: 1, csi: 2 }));
}

#[test]
fn odd_but_possible_answers_are_borne() {
    for (what, config) in [
        ("a transfer limit of two pages", identify(1, 77, &[1])),
        ("a transfer limit beyond all memory", identify(1, 77, &[0xff])),
        ("an old version", Config::default().lying(Lie::Version(0x0001_0200))),
        ("a version of the future", Config::default().lying(Lie::Version(0x00ff_0000))),
        ("no vectors", Config { vectors: 0, ..Config::default() }),
        ("distant doorbells", Config { doorbell_stride: 4, ..Config::default() }),
        ("all optional commands absent", identify(1, 520, &[0, 0])),
    ] {
        assert_eq!(open(config), Ok(()), "{what}");
    }
}

#[test]
fn more_queues_granted_than_asked_for_are_not_believed() {
    let (_model, attached) = attach(Config::default().lying(Lie::QueuesGranted(0xfffe)), &[]);
    let rig = attached.unwrap();
    let pairs: Vec<QueuePair> = std::iter::from_fn(|| rig.pair(2).ok()).take(100).collect();
    assert!((1..=16).contains(&pairs.len()), "{} pairs", pairs.len());
}

#[test]
fn an_identify_page_cut_short_is_no_controller() {
    for bytes in [0, 100, 513] {
        let config = Config::default().lying(Lie::ShortIdentify { cns: 1, bytes });
        let (_model, attached) = attach(config, &[]);
        let error = attached.map(drop).unwrap_err();
        assert!(matches!(error, AttachError::Impossible(_)), "{bytes} bytes: {error}");
    }
}

#[test]
fn log_pages_shorter_than_promised_show_nothing_that_was_not_sent() {
    let config = [1, 2, 3, 4, 0x81]
        .into_iter()
        .fold(Config::default(), |config, page| config.lying(Lie::ShortLog { page, bytes: 4 }));
    let (_model, attached) = attach(config, &[]);
    let rig = attached.unwrap();
    // Each is an error, or has zeros behind what came.
    if let Ok(health) = rig.controller.health() {
        assert_eq!((health.power_cycles, health.media_errors), (0, 0));
    }
    if let Ok(slots) = rig.controller.firmware_slots() {
        assert_eq!(slots.revisions[0], [0; 8]);
    }
    let _ = rig.controller.errors();
    let _ = rig.controller.changed_namespaces();
    let _ = rig.controller.sanitize_status();
    assert!(rig.pair(4).is_ok());
}

#[test]
fn an_admin_command_that_fails_is_an_attach_error_not_a_hang() {
    for (what, fault) in [
        ("refused", Fault::Status(Status::INTERNAL)),
        ("impossible identifier", Fault::CidOutOfRange),
        ("wrong queue", Fault::WrongQueue),
        ("impossible head", Fault::ImpossibleHead),
        ("fatal", Fault::Fatal),
        ("pulled", Fault::SurpriseRemoval),
    ] {
        let rule = Rule::next_admin(admin::IDENTIFY, fault);
        let (_model, attached) = attach(Config::default(), &[rule]);
        let error = attached.map(drop).expect_err(what);
        assert!(!error.to_string().is_empty(), "{what}");
    }
}

#[test]
fn a_queue_that_cannot_be_made_is_an_error_and_the_next_one_can() {
    let rule = Rule::next_admin(admin::CREATE_SQ, Fault::Status(Status::QUEUE_SIZE));
    let (_model, attached) = attach(Config::default(), &[rule]);
    let rig = attached.unwrap();
    assert!(matches!(rig.pair(8).unwrap_err(), QueueError::Admin(_)));
    assert!(rig.pair(8).is_ok());
}

/// Found by chaos (seed 1002): a caller waited ten seconds for a queue that had stopped.
#[test]
fn a_caller_of_an_admin_queue_that_broke_hears_of_it_at_once() {
    let rule = Rule::next_admin(admin::CREATE_CQ, Fault::CidOutOfRange);
    let (_model, attached) = attach(Config::default(), &[rule]);
    let rig = attached.unwrap();
    let begun = Instant::now();
    assert!(matches!(rig.pair(8).unwrap_err(), QueueError::Admin(_)));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // The reset that follows mends it.
    super::scene::wait_for(|| rig.pair(8).is_ok(), "the admin queue works again");
}
