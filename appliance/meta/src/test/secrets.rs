//! Certificate authorities and sealed secrets: which steps are taken, and bounds at the bound.

use sheen_wire::fields::List;

use super::*;
use crate::identity::{
    AUTHORITY_CERTIFICATE_BYTES_MAX, AUTHORITY_KEY_BYTES_MAX, CertificateAuthorityState,
    PutCertificateAuthority, PutClusterSecret, PutSessionSecret, SecretWrap, WRAPPED_BYTES_MAX,
    WRAPS_MAX,
};

use CertificateAuthorityState::{Current, Next, Retired};

pub(super) fn cluster(generation: u32, nodes: u8) -> Operation {
    let wrap = |node| SecretWrap { node: [node; 16], wrapped: vec![9; 60] };
    let wraps = List((0..nodes).map(wrap).collect());
    Operation::ClusterSecret(PutClusterSecret { generation, wraps })
}

pub(super) fn session_secret(generation: u32) -> Operation {
    let sealed = [generation.to_le_bytes()[0]; 60];
    Operation::SessionSecret(PutSessionSecret { generation, sealed })
}

pub(super) fn authority(
    generation: u32,
    state: CertificateAuthorityState,
) -> PutCertificateAuthority {
    let mark = generation.to_le_bytes()[0];
    PutCertificateAuthority {
        generation,
        certificate: vec![mark; 400],
        crossed: if generation == 1 { Vec::new() } else { vec![mark; 410] },
        sealed_key: if state == Retired { Vec::new() } else { vec![mark; 166] },
        state,
    }
}

pub(super) fn put(generation: u32, state: CertificateAuthorityState) -> Operation {
    Operation::CertificateAuthority(authority(generation, state))
}

fn with_secret() -> Harness {
    let mut h = Harness::bare(Limits::default());
    h.ok(cluster(1, 1));
    h
}

fn states(h: &Harness) -> Vec<(u32, CertificateAuthorityState)> {
    h.state.authorities().map(|it| (it.generation, it.state)).collect()
}

#[test]
fn authorities_come_rise_and_retire_in_order() {
    let mut h = Harness::bare(Limits::default());
    assert_eq!(h.err(put(1, Current)), Errno::EINVAL, "sealed under what?");
    h.ok(cluster(1, 1));
    for (generation, state) in [(2, Current), (1, Next), (1, Retired), (0, Current)] {
        assert_eq!(h.err(put(generation, state)), Errno::EINVAL, "{generation} {state:?}");
    }
    h.ok(put(1, Current));
    for (generation, state) in [(1, Next), (1, Retired), (2, Current), (2, Retired), (3, Next)] {
        assert_eq!(h.err(put(generation, state)), Errno::EINVAL, "{generation} {state:?}");
    }
    h.ok(put(2, Next));
    assert_eq!(states(&h), [(1, Current), (2, Next)]);
    for (generation, state) in [(3, Next), (2, Retired), (1, Next)] {
        assert_eq!(h.err(put(generation, state)), Errno::EINVAL, "{generation} {state:?}");
    }
    h.ok(put(2, Current));
    assert_eq!(states(&h), [(1, Retired), (2, Current)]);
    let retired = h.state.authorities().next().unwrap();
    assert!(retired.sealed_key.is_empty() && retired.certificate == [1; 400]);
    for (generation, state) in [(1, Retired), (1, Current), (1, Next), (2, Next)] {
        assert_eq!(h.err(put(generation, state)), Errno::EINVAL, "{generation} {state:?}");
    }
    h.ok(put(3, Next));
    assert_eq!(states(&h), [(1, Retired), (2, Current), (3, Next)]);
    h.ok(put(3, Current));
    assert_eq!(states(&h), [(2, Retired), (3, Current)], "the one that retired before is gone");
    assert_eq!(h.err(put(1, Current)), Errno::EINVAL, "and does not come back");
}

#[test]
fn a_key_is_sealed_anew_and_nothing_else_of_an_authority_changes() {
    let mut h = with_secret();
    h.ok(put(1, Current));
    h.ok(put(2, Next));
    for (generation, state) in [(1, Current), (2, Next)] {
        let sealed_key = vec![7; 100];
        let again = PutCertificateAuthority { sealed_key, ..authority(generation, state) };
        h.ok(Operation::CertificateAuthority(again.clone()));
        assert!(h.state.authorities().any(|it| *it == again));
        let other = PutCertificateAuthority { certificate: vec![8; 400], ..again.clone() };
        assert_eq!(h.err(Operation::CertificateAuthority(other)), Errno::EINVAL);
        let other = PutCertificateAuthority { crossed: vec![8; 400], ..again };
        assert_eq!(h.err(Operation::CertificateAuthority(other)), Errno::EINVAL);
    }
    let uncrossed = PutCertificateAuthority { crossed: Vec::new(), ..authority(3, Next) };
    h.ok(put(2, Current));
    assert_eq!(h.err(Operation::CertificateAuthority(uncrossed)), Errno::EINVAL);
}

#[test]
fn parts_of_an_authority_are_bounded() {
    let base = || authority(1, Current);
    let most = PutCertificateAuthority {
        certificate: vec![1; AUTHORITY_CERTIFICATE_BYTES_MAX],
        sealed_key: vec![1; AUTHORITY_KEY_BYTES_MAX],
        ..base()
    };
    let longer = [
        PutCertificateAuthority { certificate: vec![1; 2049], ..base() },
        PutCertificateAuthority { crossed: vec![1; 2049], ..base() },
        PutCertificateAuthority { sealed_key: vec![1; 513], ..base() },
    ];
    let mut h = with_secret();
    for wrong in longer {
        assert_eq!(h.err(Operation::CertificateAuthority(wrong)), Errno::E2BIG);
    }
    for wrong in [
        PutCertificateAuthority { certificate: Vec::new(), ..base() },
        PutCertificateAuthority { sealed_key: Vec::new(), ..base() },
        PutCertificateAuthority { crossed: vec![1; 9], ..base() },
    ] {
        assert_eq!(h.err(Operation::CertificateAuthority(wrong)), Errno::EINVAL);
    }
    h.ok(Operation::CertificateAuthority(most));
    let most = PutCertificateAuthority {
        certificate: vec![2; AUTHORITY_CERTIFICATE_BYTES_MAX],
        crossed: vec![2; AUTHORITY_CERTIFICATE_BYTES_MAX],
        ..authority(2, Next)
    };
    h.ok(Operation::CertificateAuthority(most));
}

#[test]
fn the_secret_of_the_cluster_is_wrapped_anew_and_exchanged_only_while_nothing_is_under_it() {
    let mut h = Harness::bare(Limits::default());
    assert_eq!(h.err(cluster(0, 1)), Errno::EINVAL);
    assert_eq!(h.err(cluster(2, 1)), Errno::EINVAL);
    assert_eq!(h.state.cluster_secret_generation(), None);
    h.ok(cluster(1, 1));
    h.ok(cluster(1, 3));
    assert_eq!(h.state.cluster_secret_wraps().len(), 3);
    h.ok(cluster(2, 2));
    assert_eq!(h.err(cluster(1, 1)), Errno::EINVAL);
    assert_eq!(
        (h.state.cluster_secret_generation(), h.state.cluster_secret_wraps().len()),
        (Some(2), 2)
    );
    h.ok(session_secret(1));
    assert_eq!(h.err(cluster(3, 1)), Errno::EBUSY);
    h.ok(cluster(2, 4));
    // Bounds.
    let wrap = |node: u8, bytes| SecretWrap { node: [node; 16], wrapped: vec![1; bytes] };
    let with = |wraps: Vec<SecretWrap>| {
        Operation::ClusterSecret(PutClusterSecret { generation: 2, wraps: List(wraps) })
    };
    let most = u8::try_from(WRAPS_MAX).unwrap();
    let whole = |count: u8| (0..count).map(|node| wrap(node, WRAPPED_BYTES_MAX)).collect();
    assert_eq!(h.err(with(whole(most + 1))), Errno::E2BIG);
    assert_eq!(h.err(with(vec![wrap(1, WRAPPED_BYTES_MAX + 1)])), Errno::E2BIG);
    for wraps in
        [vec![], vec![wrap(1, 0)], vec![wrap(1, 9), wrap(1, 9)], vec![wrap(2, 9), wrap(1, 9)]]
    {
        assert_eq!(h.err(with(wraps)), Errno::EINVAL);
    }
    h.ok(with(whole(most)));
}

#[test]
fn the_newest_two_secrets_of_sessions_are_kept() {
    let mut h = Harness::bare(Limits::default());
    assert_eq!(h.err(session_secret(1)), Errno::EINVAL, "sealed under what?");
    h.ok(cluster(1, 1));
    for generation in [0, 2] {
        assert_eq!(h.err(session_secret(generation)), Errno::EINVAL);
    }
    let kept = |h: &Harness| h.state.session_secrets().map(|it| it.generation).collect::<Vec<_>>();
    for generation in 1..=4 {
        h.ok(session_secret(generation));
        assert_eq!(kept(&h), Vec::from_iter(generation.saturating_sub(1).max(1)..=generation));
    }
    for generation in [1, 2, 6] {
        assert_eq!(h.err(session_secret(generation)), Errno::EINVAL);
    }
    let anew = PutSessionSecret { generation: 3, sealed: [0x77; 60] };
    h.ok(Operation::SessionSecret(anew.clone()));
    assert_eq!(h.state.session_secrets().next(), Some(&anew));
    assert_eq!(kept(&h), [3, 4]);
}
