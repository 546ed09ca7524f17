//! Certificates against their verification, and files against every kind of damage.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, SanType};
use sheen_keys::Secret;

use crate::{
    AuthorityError, Certificate, CertificateAuthority, Expiry, IdentityKey, NODE_NAME, Role,
    UnixSeconds, VerifyFault,
    expiry::{AUTHORITY_DAYS, DAY_SECONDS, NODE_DAYS},
    verify,
};

mod file;
mod tls;

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_796_083_200);

pub(crate) const fn later(days: u64) -> UnixSeconds {
    UnixSeconds(NOW.0 + days * DAY_SECONDS)
}

pub(crate) fn authority() -> CertificateAuthority {
    CertificateAuthority::create(NOW).unwrap()
}

/// A key and its certificate for 30 days.
pub(crate) fn issued(authority: &CertificateAuthority, role: Role) -> (IdentityKey, Certificate) {
    let key = IdentityKey::generate().unwrap();
    let certificate = authority.issue(role, key.public_key(), NOW, 30).unwrap();
    (key, certificate)
}

fn check(
    certificate: &Certificate,
    role: Role,
    authority: &CertificateAuthority,
    now: UnixSeconds,
) -> Result<(), VerifyFault> {
    verify(certificate, role, &[authority.certificate().clone()], &[], now)
}

#[test]
fn a_certificate_counts_in_its_role_alone() {
    let authority = authority();
    for (role, other) in [(Role::Node, Role::Client), (Role::Client, Role::Node)] {
        let (key, certificate) = issued(&authority, role);
        assert_eq!(certificate.public_key(), key.public_key());
        assert_eq!(check(&certificate, role, &authority, NOW), Ok(()));
        assert_eq!(check(&certificate, other, &authority, NOW), Err(VerifyFault::OtherRole));
    }
    let own = authority.certificate();
    for role in [Role::Node, Role::Client] {
        assert_eq!(check(own, role, &authority, NOW), Err(VerifyFault::Malformed));
    }
}

#[test]
fn another_authority_is_not_believed() {
    let (one, other) = (authority(), authority());
    let (_, certificate) = issued(&one, Role::Node);
    let fault = Err(VerifyFault::UnknownAuthority);
    assert_eq!(check(&certificate, Role::Node, &other, NOW), fault);
    assert_eq!(verify(&certificate, Role::Node, &[], &[], NOW), fault);
    let both = [&other, &one].map(|authority| authority.certificate().clone());
    assert_eq!(verify(&certificate, Role::Node, &both, &[], NOW), Ok(()));
}

#[test]
fn a_certificate_counts_in_its_time_and_in_its_authoritys() {
    let authority = authority();
    let (_, certificate) = issued(&authority, Role::Client);
    let validity = certificate.validity();
    assert_eq!((validity.not_before.0, validity.not_after), (NOW.0 - DAY_SECONDS, later(30)));
    let at = |seconds: u64| check(&certificate, Role::Client, &authority, UnixSeconds(seconds));
    let (first, last) = (validity.not_before, validity.not_after);
    assert_eq!((at(first.0), at(last.0)), (Ok(()), Ok(())));
    assert_eq!(at(first.0 - 1), Err(VerifyFault::NotYet { from: first }));
    assert_eq!(at(last.0 + 1), Err(VerifyFault::Expired { since: last }));

    let end = authority.certificate().validity().not_after;
    assert_eq!(end, later(u64::from(AUTHORITY_DAYS)));
    let soon = UnixSeconds(end.0 - 5 * DAY_SECONDS);
    let key = IdentityKey::generate().unwrap();
    let short = authority.issue(Role::Node, key.public_key(), soon, NODE_DAYS).unwrap();
    assert_eq!(short.validity().not_after, end, "nothing outlives who signed it");
    let over = UnixSeconds(end.0 + 1);
    let refused = authority.issue(Role::Node, key.public_key(), over, 1).unwrap_err();
    assert_eq!(refused, AuthorityError::Expired(Expiry::Expired { since: end }));
    assert!(refused.to_string().contains("expired on 2036-11-28"), "{refused}");
}

#[test]
fn who_believes_the_old_authority_believes_what_the_next_one_signs() {
    let (old, next, third) = (authority(), authority(), authority());
    let crossed = old.cross_sign(next.certificate(), NOW).unwrap();
    assert_eq!(crossed.public_key(), next.certificate().public_key());
    let (_, node) = issued(&next, Role::Node);
    let believed = [old.certificate().clone()];
    let chain = std::slice::from_ref(&crossed);
    assert_eq!(verify(&node, Role::Node, &believed, chain, NOW), Ok(()));
    assert_eq!(verify(&node, Role::Node, &believed, &[], NOW), Err(VerifyFault::UnknownAuthority));
    assert_eq!(check(&node, Role::Node, &next, NOW), Ok(()));
    // A crossed authority signs no further ones.
    let again = next.cross_sign(third.certificate(), NOW).unwrap();
    let (_, node) = issued(&third, Role::Node);
    let fault = verify(&node, Role::Node, &believed, &[crossed, again], NOW);
    assert!(fault.is_err(), "{fault:?}");
}

#[test]
fn an_authority_read_back_signs_as_before_and_opens_with_its_secret_alone() {
    let authority = authority();
    let secret = Secret::copy_of(&[7; 32]).unwrap();
    let sealed = authority.seal(&secret, 3).unwrap();
    assert!(sealed.len() <= 512, "{} bytes", sealed.len());
    let certificate = || authority.certificate().clone();
    let again = CertificateAuthority::open(certificate(), &secret, 3, &sealed).unwrap();
    let (_, node) = issued(&again, Role::Node);
    assert_eq!(check(&node, Role::Node, &authority, NOW), Ok(()));

    let other = Secret::copy_of(&[8; 32]).unwrap();
    for (secret, generation) in [(&other, 3), (&secret, 2)] {
        let error =
            CertificateAuthority::open(certificate(), secret, generation, &sealed).unwrap_err();
        assert!(matches!(error, AuthorityError::Sealed(_)), "{error}");
    }
    let foreign = CertificateAuthority::create(NOW).unwrap().certificate().clone();
    let error = CertificateAuthority::open(foreign, &secret, 3, &sealed).unwrap_err();
    assert_eq!(error, AuthorityError::OtherKey);
    assert!(!format!("{authority:?}").contains("Secret"));
}

#[test]
fn certificates_tell_nothing_of_their_holder_and_never_repeat() {
    let authority = authority();
    let key = IdentityKey::generate().unwrap();
    let issue = || authority.issue(Role::Client, key.public_key(), NOW, 30).unwrap();
    let (one, two) = (issue(), issue());
    assert_ne!(one.fingerprint(), two.fingerprint());
    let text = String::from_utf8_lossy(one.der()).into_owned();
    assert!(text.contains("client.sheen.internal") && !text.contains(NODE_NAME));
    assert!(one.der().len() < 512, "{} bytes", one.der().len());
    assert_eq!(format!("{one:?}"), format!("Certificate({})", one.fingerprint()));
}

#[test]
fn no_damage_is_believed_and_none_panics() {
    let authority = authority();
    let (_, certificate) = issued(&authority, Role::Client);
    let der = certificate.der();
    for at in 0..der.len() {
        for bit in 0..8 {
            let mut damaged = der.to_vec();
            damaged[at] ^= 1 << bit;
            if let Ok(read) = Certificate::from_der(&damaged) {
                let verdict = check(&read, Role::Client, &authority, NOW);
                assert!(verdict.is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(Certificate::from_der(&der[..at]).is_err(), "{at} bytes");
    }
    let longer = [der, &[0]].concat();
    assert!(Certificate::from_der(&longer).is_err());
    let error = Certificate::from_der(&vec![0x30; 2049]).unwrap_err();
    assert_eq!(error.to_string(), "it has 2049 bytes, at most 2048");
}

#[test]
fn keys_of_other_curves_are_refused() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let made = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let error = Certificate::from_der(made.der()).unwrap_err();
    assert_eq!(error, crate::CertificateFault::Key);
}

/// A node's certificate as ours is, and its authority's, after `change`.
fn made_otherwise(
    change: impl FnOnce(&mut CertificateParams, &mut CertificateParams),
) -> (Certificate, Certificate) {
    let moment = |at: UnixSeconds| at.to_date_time().unwrap();
    let (key, holder) = (IdentityKey::generate().unwrap(), IdentityKey::generate().unwrap());
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    (authority.not_before, authority.not_after) = (moment(later(1)), moment(later(2)));
    let mut node = CertificateParams::new([NODE_NAME.to_owned()]).unwrap();
    node.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    (node.not_before, node.not_after) = (moment(NOW), moment(later(9)));
    change(&mut node, &mut authority);
    let issuer = Issuer::from_params(&authority, &key);
    let node = node.signed_by(holder.public_key(), &issuer).unwrap();
    let authority = authority.self_signed(&key).unwrap();
    let read = |der: &[u8]| Certificate::from_der(der).unwrap();
    (read(node.der()), read(authority.der()))
}

#[test]
fn an_authority_that_is_over_is_believed_no_more() {
    // Unlike ours it gave what outlives it.
    let (node, authority) = made_otherwise(|_, _| {});
    let at = |now| verify(&node, Role::Node, std::slice::from_ref(&authority), &[], now);
    assert_eq!(at(NOW), Err(VerifyFault::NotYet { from: later(1) }));
    assert_eq!(at(later(2)), Ok(()));
    assert_eq!(at(later(3)), Err(VerifyFault::Expired { since: later(2) }));
}

#[test]
fn a_certificate_without_usage_or_with_another_name_is_for_no_role() {
    let judge = |(node, authority): (Certificate, Certificate)| {
        [Role::Node, Role::Client]
            .map(|role| verify(&node, role, std::slice::from_ref(&authority), &[], later(1)))
    };
    let refused = [Err(VerifyFault::OtherRole); 2];
    assert_eq!(judge(made_otherwise(|node, _| node.extended_key_usages.clear())), refused);
    let other = SanType::DnsName("client.sheen.internal".try_into().unwrap());
    assert_eq!(judge(made_otherwise(|node, _| node.subject_alt_names = vec![other])), refused);
}
