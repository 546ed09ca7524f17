//! A node's identity and its clients: made once, found again, exchanged, ended.

use std::{os::unix::fs::PermissionsExt, path::Path};

use sheen_identity::{IdentityKey, Role, verify};
use sheen_keys::{KeyFile, KeySource};
use sheen_types::Bytes;

use super::*;
use crate::{
    config::{Config, EncryptionConfig},
    server::{Force, Node, NodeState, format},
};

const ANYWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

fn config(directory: &Path) -> Config {
    let mut config = Config::embedded(directory, Bytes(1 << 30));
    config.listen = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    config.threads.reactors = 1;
    config.limits.buffers = Bytes(16 << 20);
    config
}

fn started(config: &Config) -> Node {
    let node = Node::start(config.clone()).unwrap();
    assert_eq!(node.identities().unwrap().fault(), None);
    node
}

/// A client with a certificate of a day.
fn add(identities: &Identities, name: &str, rights: &RightsRequest) -> IssuedCertificate {
    let key = IdentityKey::generate().unwrap();
    let issued = identities.issue(key.public_key().as_bytes(), DAY_SECONDS, now()).unwrap();
    identities.new_client(name, rights, &named(&issued)).unwrap();
    issued
}

fn named(issued: &IssuedCertificate) -> NamedCertificate {
    NamedCertificate {
        fingerprint: issued.certificate.fingerprint().to_string(),
        not_after: issued.not_after.0,
    }
}

fn admitted(identities: &Identities, issued: &IssuedCertificate) -> Result<String, NotAdmitted> {
    let admitted = identities.admit(issued.certificate.fingerprint(), ANYWHERE, now())?;
    Ok(String::from_utf8(admitted.name).unwrap())
}

fn authority_names(node: &Node) -> Vec<String> {
    let shown = node.identities().unwrap().authorities_shown().unwrap();
    shown.authorities.into_iter().map(|it| format!("{} {}", it.state, it.fingerprint)).collect()
}

#[test]
fn a_restart_finds_authority_and_clients_and_shows_another_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    let node = started(&config);
    let identities = node.identities().unwrap();
    let before = authority_names(&node);
    assert_eq!(before.len(), 1);
    let issued = add(identities, "web1", &RightsRequest::default());
    let shown = identities.credentials().unwrap();
    node.stop().unwrap();
    let node = started(&config);
    assert_eq!(authority_names(&node), before);
    let identities = node.identities().unwrap();
    assert_eq!(admitted(identities, &issued), Ok("web1".to_owned()));
    let again = identities.credentials().unwrap();
    assert_ne!(again.certificate.fingerprint(), shown.certificate.fingerprint());
    // The client believes it by the authorities it was given before.
    let check = verify(&again.certificate, Role::Node, &issued.authorities, &again.between, now());
    assert_eq!(check, Ok(()));
    let status = node.status();
    assert_eq!((status.identity.fault, status.identity.clients), (None, 1));
    assert_ne!(status.state, NodeState::Degraded);
    node.stop().unwrap();
}

#[test]
fn the_key_lies_beside_a_device_that_is_not_encrypted_for_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    started(&config).stop().unwrap();
    let key = directory.path().join("device.identity-key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // Without it the node serves, has no identity and makes no other.
    let elsewhere = directory.path().join("elsewhere");
    std::fs::rename(&key, &elsewhere).unwrap();
    let node = Node::start(config.clone()).unwrap();
    let fault = node.identities().unwrap().fault().unwrap();
    assert!(fault.contains("device.identity-key") && fault.contains("put it back"), "{fault}");
    assert!(!key.exists());
    let refused = node.identities().unwrap().rotate_authority(now()).unwrap_err();
    assert_eq!(refused.to_string(), fault);
    // Put back, it is found without a restart.
    std::fs::rename(&elsewhere, &key).unwrap();
    node.identities().unwrap().tend(now());
    assert_eq!(node.identities().unwrap().fault(), None);
    assert_eq!(authority_names(&node).len(), 1);
    node.stop().unwrap();
}

#[test]
fn beside_an_encrypted_device_there_is_no_other_key_and_another_key_of_the_device_opens_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    let source = |name: &str| -> KeySource {
        let path = directory.path().join(name);
        KeyFile::create(&path).unwrap();
        format!("file:{}", path.display()).parse().unwrap()
    };
    config.encryption = EncryptionConfig::under(source("first"));
    format(&config, Force::No).unwrap();
    let node = started(&config);
    let before = authority_names(&node);
    let second = source("second");
    node.rotate_key(&second).unwrap();
    node.stop().unwrap();
    assert!(!directory.path().join("device.identity-key").exists());
    config.encryption = EncryptionConfig::under(second);
    let node = started(&config);
    assert_eq!(authority_names(&node), before);
    node.stop().unwrap();
}

#[test]
fn a_client_made_in_the_second_of_the_exchange_is_named_as_older() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    let node = started(&config);
    let identities = node.identities().unwrap();
    add(identities, "old", &RightsRequest::default());
    let made = UnixSeconds(identities.clients(None).unwrap()[0].created);
    identities.rotate_authority(made).unwrap();
    assert_eq!(identities.authorities_shown().unwrap().older_clients, ["old"]);
    node.stop().unwrap();
}

#[test]
fn authorities_are_exchanged_while_everybody_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    let node = started(&config);
    let identities = node.identities().unwrap();
    assert!(matches!(identities.retire_authority(now()), Err(IdentitiesError::Rotation(_))));
    let old = add(identities, "old", &RightsRequest::default());
    identities.rotate_authority(now()).unwrap();
    assert!(matches!(identities.rotate_authority(now()), Err(IdentitiesError::Rotation(_))));
    let new = add(identities, "new", &RightsRequest::default());
    let believes = |issued: &IssuedCertificate| {
        let shown = identities.credentials().unwrap();
        let node =
            verify(&shown.certificate, Role::Node, &issued.authorities, &shown.between, now());
        let client = verify(&issued.certificate, Role::Client, &shown.authorities, &[], now());
        (node.is_ok(), client.is_ok())
    };
    assert_eq!((believes(&old), believes(&new)), ((true, true), (true, true)));
    let states = |node: &Node| -> Vec<String> {
        authority_names(node).iter().map(|it| it.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(states(&node), ["current", "next"]);
    identities.retire_authority(now()).unwrap();
    assert_eq!(states(&node), ["retired", "current"]);
    assert_eq!((believes(&old).1, believes(&new)), (false, (true, true)));
    // A file that is made again is believed, for the same client.
    let key = IdentityKey::generate().unwrap();
    let renewed = identities.issue(key.public_key().as_bytes(), DAY_SECONDS, now()).unwrap();
    identities.renew_client("old", &named(&renewed), Others::Stay, now()).unwrap();
    assert_eq!(believes(&renewed), (true, true));
    assert_eq!(admitted(identities, &renewed), Ok("old".to_owned()));
    node.stop().unwrap();
    let node = started(&config);
    assert_eq!(states(&node), ["retired", "current"]);
    assert_eq!(node.identities().unwrap().credentials().unwrap().generation, 2);
    node.stop().unwrap();
}

#[test]
fn clients_are_changed_renewed_and_revoked_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    let node = started(&config);
    let identities = node.identities().unwrap();
    let rights = RightsRequest {
        speaks: Some(Speaks::User { uid: 1000, gid: 100 }),
        read_only: Some(true),
        networks: Some(vec!["10.0.0.0/8".to_owned()]),
        ..RightsRequest::default()
    };
    let first = add(identities, "web1", &rights);
    assert_eq!(admitted(identities, &first), Ok("web1".to_owned()));
    let far =
        identities.admit(first.certificate.fingerprint(), "192.168.0.1".parse().unwrap(), now());
    assert_eq!(far, Err(NotAdmitted::Network));
    let late = UnixSeconds(first.not_after.0 + 1);
    let since = first.not_after.0;
    let over = identities.admit(first.certificate.fingerprint(), ANYWHERE, late);
    assert_eq!(over, Err(NotAdmitted::Expired { since }));
    let shown = identities.clients(Some("web1")).unwrap().remove(0);
    assert_eq!(shown.rights.speaks, Speaks::User { uid: 1000, gid: 100 });
    assert_eq!((shown.rights.networks, shown.rights.read_only), (vec!["10.0.0.0/8".into()], true));
    assert_eq!((shown.expires, shown.sessions), (Some(since), 0));
    let twice = identities.new_client("web1", &rights, &named(&first));
    assert_eq!(twice, Err(IdentitiesError::Exists("web1".to_owned())));
    let nowhere = RightsRequest { filesystems: Some(vec!["no".into()]), ..Default::default() };
    let set = identities.set_client("web1", &nowhere);
    assert_eq!(set, Err(IdentitiesError::NoFilesystem("no".to_owned())));
    let writes = RightsRequest { read_only: Some(false), ..Default::default() };
    identities.set_client("web1", &writes).unwrap();
    assert!(!identities.clients(Some("web1")).unwrap()[0].rights.read_only);
    let issue = || {
        let key = IdentityKey::generate().unwrap();
        identities.issue(key.public_key().as_bytes(), 2 * DAY_SECONDS, now()).unwrap()
    };
    let second = issue();
    assert_eq!(admitted(identities, &second), Err(NotAdmitted::Unknown), "issued, not listed");
    identities.renew_client("web1", &named(&second), Others::Stay, now()).unwrap();
    assert_eq!(admitted(identities, &first), admitted(identities, &second));
    for _ in 2..4 {
        identities.renew_client("web1", &named(&issue()), Others::Stay, now()).unwrap();
    }
    let fifth = identities.renew_client("web1", &named(&issue()), Others::Stay, now());
    let until = UnixSeconds(first.not_after.0.min(second.not_after.0));
    assert_eq!(fifth, Err(IdentitiesError::TooManyFiles { name: "web1".to_owned(), until }));
    assert_eq!(admitted(identities, &first), Ok("web1".to_owned()), "none ends unasked");
    let third = issue();
    identities.renew_client("web1", &named(&third), Others::End, now()).unwrap();
    assert_eq!(admitted(identities, &second), Err(NotAdmitted::Unknown));
    assert_eq!(admitted(identities, &third), Ok("web1".to_owned()));
    identities.revoke_client("web1").unwrap();
    assert_eq!(admitted(identities, &third), Err(NotAdmitted::Unknown));
    let shown = identities.clients(None).unwrap();
    assert!(shown[0].revoked.is_some() && shown[0].certificates.is_empty());
    assert_eq!(
        identities.set_client("web1", &writes),
        Err(IdentitiesError::Revoked("web1".to_owned()))
    );
    // The name is free again.
    add(identities, "web1", &rights);
    identities.forget_client("web1").unwrap();
    assert_eq!(identities.revoke_client("web1"), Err(IdentitiesError::Unknown("web1".to_owned())));
    node.stop().unwrap();
}

#[test]
fn what_ends_soon_is_told_and_the_node_s_certificate_is_made_anew_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    let node = started(&config);
    let identities = node.identities().unwrap();
    add(identities, "short", &RightsRequest::default());
    let warned = |now| -> Vec<String> {
        let warnings = identities.warnings(now).into_iter();
        warnings.map(|it| format!("{} {}", it.kind, it.name)).collect()
    };
    assert_eq!(warned(now()), ["client short"]);
    let status = identities.status(now());
    assert_eq!((status.clients, status.clients_ending, status.ends.len()), (1, 1, 2));
    assert!(status.next_end.is_some());
    let before = identities.credentials().unwrap();
    let after_days = |days: u64| UnixSeconds(now().0 + days * DAY_SECONDS);
    identities.tend(after_days(59));
    assert!(Arc::ptr_eq(&before, &identities.credentials().unwrap()), "too early");
    identities.tend(after_days(61));
    let renewed = identities.credentials().unwrap();
    assert!(renewed.certificate.validity().not_after > before.certificate.validity().not_after);
    // Near the authority's end nothing more can be had, and is not tried again and again.
    identities.tend(after_days(3640));
    let last = identities.credentials().unwrap();
    identities.tend(after_days(3641));
    assert!(Arc::ptr_eq(&last, &identities.credentials().unwrap()));
    let warned = warned(after_days(3641));
    assert!(warned.contains(&"authority 1".to_owned()), "{warned:?}");
    node.stop().unwrap();
}
