//! What a configuration file may say, and how a wrong one is refused.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("node.toml"), text)
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_example_is_read_and_shows_the_defaults() {
    let example = parse(Config::EXAMPLE).unwrap();
    let least = parse("[device]\npath = \"/var/lib/sheen/device\"\nsize = \"64GiB\"").unwrap();
    assert_eq!(example, least, "what the example shows as default is the default");
    // Every key stands in it: an unknown one would be refused, so counting lines with `=` is counting keys.
    let keys = Config::EXAMPLE.lines().filter(|line| !line.starts_with('#') && line.contains('='));
    assert_eq!(keys.count(), 28);
}

#[test]
fn an_embedded_configuration_reads_back_as_itself() {
    let directory = Path::new("/tmp/a \"quoted\" \\ place");
    let text = Config::embedded_text(directory, Bytes(64 << 30), Addresses::default());
    assert_eq!(parse(&text).unwrap(), Config::embedded(directory, Bytes(64 << 30)));
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let message = refused("name = \"n\"\n[device]\npath = \"/d\"\nsiez = \"1GiB\"\n");
    assert!(message.contains("line 4") && message.contains("siez"), "{message}");
    let message = refused("[devise]\npath = \"/d\"\n");
    assert!(message.contains("line 1") && message.contains("devise"), "{message}");
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_with_its_line_and_what_was_expected() {
    let message = refused("[device]\npath = \"/d\"\nsize = \"a lot\"\n");
    assert!(message.contains("line 3") && message.contains("64KiB"), "{message}");
    let message = refused("[device]\npath = \"/d\"\n\n[times]\nlease = \"soon\"\n");
    assert!(message.contains("line 5") && message.contains("duration"), "{message}");
    let message = refused("listen = \"here\"\n[device]\npath = \"/d\"\n");
    assert!(message.contains("line 1") && message.contains("socket address"), "{message}");
    let message = refused("[threads]\nspin = \"1us\"\n");
    assert!(message.contains("device"), "{message}");
}

#[test]
fn a_key_is_a_file_a_kms_or_a_tpm_and_nothing_else() {
    let key = |text: &str| format!("[device]\npath = \"/d\"\n[encryption]\nkey = \"{text}\"\n");
    let config = parse(&key("file:/etc/sheen/key")).unwrap();
    assert_eq!(config.encryption.key().unwrap().to_string(), "file:/etc/sheen/key");
    assert_eq!(parse("[device]\npath = \"/d\"\n").unwrap().encryption.key(), None);
    for encryption in [
        EncryptionConfig::default(),
        EncryptionConfig::under("file:/a \"quoted\" \\ place".parse().unwrap()),
    ] {
        let text = format!("[device]\npath = \"/d\"\n{}", encryption.text());
        assert_eq!(parse(&text).unwrap().encryption, encryption);
    }
    for text in ["vault:secret", "file:relative", "/etc/sheen/key", ""] {
        let message = refused(&key(text));
        assert!(message.contains("line 4") && message.contains("file:/PATH"), "{message}");
        assert!(message.contains(&format!("found \"{text}\"")), "{message}");
    }
}

#[test]
fn a_value_out_of_range_is_refused_with_its_line_and_its_range() {
    let message = refused("[device]\npath = \"/d\"\nosts = 0\n");
    assert_eq!(message, "node.toml:3: device.osts: expected 1 to 32, found 0");
    let message = refused("device.path = \"/d\"\ndevice.queue_depth = 5000\n");
    assert_eq!(message, "node.toml:2: device.queue_depth: expected 8 to 4096, found 5000");
    let message = refused("[device]\npath = \"/d\"\n[limits]\n# buffers = 1\nbuffers = \"5MiB\"\n");
    assert_eq!(
        message,
        "node.toml:5: limits.buffers: expected a power of two from 4MiB to 16GiB, found 5 MiB"
    );
    let message = refused("[device]\npath = \"/d\"\n[limits]\nwindow = \"1MiB\"\n");
    assert_eq!(message, "node.toml:4: limits.window: expected 4MiB to 1TiB, found 1 MiB");
    let message = refused("[device]\npath = \"/d\"\n[limits]\nconnections = \"256MiB\"\n");
    assert!(message.starts_with("node.toml:4: limits.connections: expected at least"), "{message}");
    let message = refused("name = \"a/b\"\n[device]\npath = \"/d\"\n");
    assert!(message.starts_with("node.toml:1: name: expected 1 to 63 letters"), "{message}");
}
