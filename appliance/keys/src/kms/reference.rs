//! What stands behind `kms:` in a configuration: the key, and where its KMS is.

/// Most characters of a key's name; KMS allows as many.
const KEY_LENGTH_MAX: usize = 2048;

/// `KEY?endpoint=URL&region=REGION`; what stands behind the question mark may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Key id, key ARN, alias name (`alias/x`) or alias ARN.
    pub(super) key: String,
    /// URL of the KMS, when it is not the region's own.
    pub(super) endpoint: Option<String>,
    /// Region, when neither the ARN nor the environment says it.
    pub(super) region: Option<String>,
}

impl Reference {
    /// Reads what stands behind `kms:`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(parameters: &str) -> Result<Self, String> {
        let (key, rest) = match parameters.split_once('?') {
            Some((key, rest)) => (key, Some(rest)),
            None => (parameters, None),
        };
        check_key(key)?;
        let mut reference = Self { key: key.to_owned(), endpoint: None, region: None };
        for pair in rest.into_iter().flat_map(|rest| rest.split('&')) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("`{pair}` is not NAME=VALUE"));
            };
            let place = match name {
                "endpoint" => &mut reference.endpoint,
                "region" => &mut reference.region,
                _ => return Err(format!("there is no parameter `{name}`: endpoint, region")),
            };
            if place.is_some() {
                return Err(format!("`{name}` is given twice"));
            }
            *place = Some(value.to_owned());
        }
        if let Some(region) = &reference.region {
            check_region(region)?;
        }
        Ok(reference)
    }

    /// The region that the key's ARN names.
    pub(super) fn region_of_arn(&self) -> Option<&str> {
        if !self.key.starts_with("arn:") {
            return None;
        }
        self.key.split(':').nth(3).filter(|region| check_region(region).is_ok())
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '_' | '-');
    if key.is_empty() {
        return Err("no key is named: expected kms:KEY, KEY a key id, an ARN or alias/NAME".into());
    }
    if key.len() > KEY_LENGTH_MAX || !key.chars().all(allowed) {
        return Err(format!("`{key:.80}` is neither a key id, nor an ARN, nor alias/NAME"));
    }
    Ok(())
}

/// A region is a part of a host's name, so nothing else may be in it.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn check_region(region: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.is_empty() || region.len() > 40 || !region.chars().all(allowed) {
        return Err(format!("`{region:.80}` is not a region"));
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_reference_is_read_whole() {
        let whole = Reference::parse("alias/sheen?endpoint=http://127.0.0.1:5000&region=eu-west-1")
            .unwrap();
        assert_eq!(whole.key, "alias/sheen");
        assert_eq!(whole.endpoint.as_deref(), Some("http://127.0.0.1:5000"));
        assert_eq!(whole.region.as_deref(), Some("eu-west-1"));
        assert_eq!(whole.region_of_arn(), None);
    }

    #[test]
    fn an_arn_tells_its_region() {
        let arn = "arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let reference = Reference::parse(arn).unwrap();
        assert_eq!(reference.key, arn);
        assert_eq!(reference.region_of_arn(), Some("us-east-2"));
    }

    #[test]
    fn what_is_not_a_reference_is_refused() {
        for text in [
            "",
            "?region=eu-west-1",
            "a key",
            "key?region",
            "key?regoin=eu-west-1",
            "key?region=eu-west-1&region=eu-west-2",
            "key?region=evil.example/",
            "key?region=",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
