//! Identity files: what is written is read, and what was damaged is told by its line.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use super::{NOW, authority, issued, later};
use crate::{
    CertificateFault, Expiry, IdentityFault, IdentityFile, IdentityFileError, Role, VerifyFault,
    identity_text::IDENTITY_BYTES_MAX,
};

fn identity() -> IdentityFile {
    let authorities = [authority(), authority()];
    let (key, certificate) = issued(&authorities[0], Role::Client);
    let addresses = ["10.0.0.5:7000", "[fe80::1%eth0]:7000", "node.example:1"].map(str::to_owned);
    IdentityFile {
        node: std::array::from_fn(|at| 0xf0 ^ u8::try_from(at).unwrap()),
        addresses: addresses.into(),
        name: "web-1.x_Y".to_owned(),
        authorities: authorities.iter().map(|it| it.certificate().clone()).collect(),
        certificate,
        key,
    }
}

fn text_of(file: &IdentityFile) -> String {
    String::from_utf8(file.to_text().unwrap().as_bytes().to_vec()).unwrap()
}

fn same(left: &IdentityFile, right: &IdentityFile) -> bool {
    (left.node, &left.addresses, &left.name) == (right.node, &right.addresses, &right.name)
        && left.authorities == right.authorities
        && left.certificate == right.certificate
        && left.key.pkcs8().expose() == right.key.pkcs8().expose()
}

fn fault(text: &str) -> IdentityFault {
    IdentityFile::parse(text.as_bytes()).unwrap_err()
}

#[test]
fn what_is_written_is_read_and_written_the_same() {
    let file = identity();
    let text = text_of(&file);
    let head = "sheen-identity 1\nnode f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff\n\
                addresses 10.0.0.5:7000, [fe80::1%eth0]:7000, node.example:1\nname web-1.x_Y\n\
                authority\n-----BEGIN CERTIFICATE-----\n";
    assert!(text.starts_with(head), "{text}");
    let read = IdentityFile::parse(text.as_bytes()).unwrap();
    assert!(same(&read, &file));
    assert_eq!(text_of(&read), text);
    // As an editor leaves it: comments, empty lines, blanks and carriage returns at the ends of lines.
    let edited = text.replace("name ", "\n# who we are\nname ").replace('\n', " \r\n");
    assert!(same(&IdentityFile::parse(edited.as_bytes()).unwrap(), &file));
    let none = text.replace(" 10.0.0.5:7000, [fe80::1%eth0]:7000, node.example:1", "");
    assert!(IdentityFile::parse(none.as_bytes()).unwrap().addresses.is_empty());
}

#[test]
fn expiry_is_told_and_does_not_keep_a_file_from_being_read() {
    let file = identity();
    assert_eq!(file.expiry(NOW), Expiry::Good { days_left: 30, until: later(30) });
    assert_eq!(file.expiry(later(1)), Expiry::Soon { days_left: 29, until: later(30) });
    assert_eq!(file.expiry(later(31)), Expiry::Expired { since: later(30) });
}

#[test]
fn every_damaged_field_is_named_by_its_line() {
    let text = text_of(&identity());
    let lines: Vec<&str> = text.lines().collect();
    let with = |line: usize, new: &str| {
        let mut lines = lines.clone();
        lines[line - 1] = new;
        lines.join("\n")
    };
    for wrong in ["", "sheen-identity 2", "sheen-identity", "Sheen-identity 1", "\u{feff}sheen"] {
        let text = with(1, wrong);
        assert!(matches!(fault(&text), IdentityFault::Heading { line: 1 | 2 }), "{wrong}");
    }
    assert_eq!(fault(""), IdentityFault::Heading { line: 1 });
    assert_eq!(fault("# only this"), IdentityFault::Heading { line: 2 });
    let long_host = format!("addresses {}:1", "h".repeat(254));
    let many = format!("addresses {}", vec!["h:1"; 17].join(","));
    let long_name = format!("name {}", "n".repeat(64));
    for (line, wrong) in [
        (2, "node"),
        (2, "node f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfef"),
        (2, "node f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe+f"),
        (2, "node f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
        (2, "nodef0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff"),
        (3, "addresses host"),
        (3, "addresses host:"),
        (3, "addresses :7000"),
        (3, "addresses host:0"),
        (3, "addresses host:65536"),
        (3, "addresses host:+7"),
        (3, "addresses ho st:7000"),
        (3, "addresses a:1,,b:1"),
        (3, &long_host),
        (3, &many),
        (4, "name"),
        (4, "name .x"),
        (4, "name a b"),
        (4, &long_name),
        (5, "certificate"),
        (6, "-----BEGIN PRIVATE KEY-----"),
        (6, "-----BEGIN CERTIFICATE----"),
    ] {
        let found = fault(&with(line, wrong));
        assert!(
            matches!(found, IdentityFault::Field { line: at, .. } if at == line),
            "{wrong}: {found}"
        );
        assert!(found.to_string().starts_with(&format!("line {line}: expected ")), "{found}");
    }
}

#[test]
fn every_text_that_ends_too_early_is_refused() {
    let text = text_of(&identity());
    let lines: Vec<&str> = text.lines().collect();
    for count in 0..lines.len() {
        let found = fault(&lines[..count].join("\n"));
        let early = matches!(found, IdentityFault::Heading { .. } | IdentityFault::Field { .. });
        assert!(early, "{count} lines: {found}");
    }
    let more = format!("{text}certificate\n");
    assert!(matches!(fault(&more), IdentityFault::Field { .. }));
    let long = format!("{text}{}", "#".repeat(IDENTITY_BYTES_MAX));
    assert_eq!(fault(&long), IdentityFault::TooLong);
}

/// Replaces the lines inside of the `number`th block.
fn with_block(text: &str, number: usize, content: &[&str]) -> String {
    let mut result = Vec::new();
    let (mut blocks, mut inside) = (0, false);
    for line in text.lines() {
        if line.starts_with("-----END") {
            inside = false;
        }
        if !inside {
            result.push(line);
        }
        if line.starts_with("-----BEGIN") {
            inside = blocks == number;
            blocks += 1;
            if inside {
                result.extend(content);
            }
        }
    }
    result.join("\n")
}

#[test]
fn damaged_blocks_are_refused_by_kind() {
    let text = text_of(&identity());
    let huge = vec!["A"; 4000];
    for block in 0..4 {
        for content in [&[][..], &["A"], &["????"], &["AAAA=AAA"], &["AAAA", "", "AAAA"], &huge] {
            let found = fault(&with_block(&text, block, content));
            assert!(matches!(found, IdentityFault::Field { .. }), "{block}: {found}");
        }
        let found = fault(&with_block(&text, block, &["AAAA"]));
        match found {
            IdentityFault::Certificate { fault: CertificateFault::Malformed, .. } if block < 3 => {}
            IdentityFault::Key { .. } if block == 3 => {}
            other => panic!("{block}: {other}"),
        }
    }
}

#[test]
fn parts_of_different_identities_are_not_put_together() {
    let (one, other) = (identity(), identity());
    let with = |change: fn(&mut IdentityFile, IdentityFile)| {
        let mut file = IdentityFile::parse(text_of(&one).as_bytes()).unwrap();
        change(&mut file, IdentityFile::parse(text_of(&other).as_bytes()).unwrap());
        fault(&text_of(&file))
    };
    assert_eq!(with(|file, other| file.key = other.key), IdentityFault::OtherKey);
    assert_eq!(with(|file, other| file.certificate = other.certificate), IdentityFault::OtherKey);
    let unknown = IdentityFault::NotOurs(VerifyFault::UnknownAuthority);
    assert_eq!(with(|file, other| file.authorities = other.authorities), unknown);
    let authority = authority();
    let (key, certificate) = issued(&authority, Role::Node);
    let authorities = vec![authority.certificate().clone()];
    let node = IdentityFile { key, certificate, authorities, ..identity() };
    let found = fault(&text_of(&node));
    assert_eq!(found, IdentityFault::NotOurs(VerifyFault::OtherRole));
    assert!(found.to_string().contains("a node's is no client's"), "{found}");
}

#[test]
fn any_damaged_bit_is_refused_or_harmless() {
    let file = identity();
    let text = text_of(&file);
    let mut changed = 0;
    for at in 0..text.len() {
        let mut damaged = text.clone().into_bytes();
        damaged[at] ^= 1 << (at % 7);
        if let Ok(read) = IdentityFile::parse(&damaged) {
            // A hint for people, an authority that signed nothing here, or the key's own copy of its public half.
            changed += 1;
            assert_eq!(read.certificate, file.certificate);
            assert_eq!(read.key.public_key(), file.key.public_key());
        }
    }
    assert!(changed < text.len() / 2, "{changed} of {}", text.len());
}

#[test]
fn a_field_that_cannot_be_read_back_is_not_written() {
    let with = |change: fn(&mut IdentityFile)| {
        let mut file = identity();
        change(&mut file);
        file.to_text().map(|_| ()).unwrap_err()
    };
    let line = |found, line| {
        assert!(matches!(found, IdentityFault::Field { line: at, .. } if at == line), "{found}");
    };
    line(with(|file| file.addresses.push("a\nb:1".into())), 3);
    line(with(|file| file.addresses = vec!["a:1".into(); 17]), 3);
    line(with(|file| file.name = "a\nname b".into()), 4);
    line(with(|file| file.authorities.clear()), 5);
    line(with(|file| file.authorities = vec![file.authorities[0].clone(); 4]), 5);
}

#[test]
fn a_file_is_private_whole_and_not_overwritten_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web1.identity");
    let (first, second) = (identity(), identity());
    first.create(&path).unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    assert!(same(&IdentityFile::read(&path).unwrap(), &first));
    let error = second.create(&path).unwrap_err();
    assert!(
        matches!(&error, IdentityFileError::System { error, .. } if error.kind() == ErrorKind::AlreadyExists)
    );
    assert!(same(&IdentityFile::read(&path).unwrap(), &first));
    second.replace(&path).unwrap();
    assert!(same(&IdentityFile::read(&path).unwrap(), &second));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no other file is left: {left:?}");
    let nowhere = folder.path().join("none/identity");
    assert!(matches!(first.create(&nowhere), Err(IdentityFileError::System { .. })));
}

#[test]
fn what_others_may_read_and_what_is_no_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity");
    identity().create(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = IdentityFile::read(&path).unwrap_err();
    assert!(matches!(error, IdentityFileError::Mode { mode: 0o640, .. }), "{error}");
    let error = IdentityFile::read(folder.path()).unwrap_err();
    assert!(matches!(error, IdentityFileError::NotAFile { .. }), "{error}");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let error = IdentityFile::read(&pipe).unwrap_err();
    assert!(matches!(error, IdentityFileError::NotAFile { .. }), "{error}");
    let error = IdentityFile::read(Path::new("/nowhere/identity")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/identity: "), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "x".repeat(IDENTITY_BYTES_MAX + 1)).unwrap();
    let error = IdentityFile::read(&path).unwrap_err();
    let too_long = IdentityFault::TooLong;
    assert!(matches!(&error, IdentityFileError::Content { fault, .. } if *fault == too_long));
}
