//! The environment variables that AWS tools read, taken once, so that nothing below asks the process.

use std::collections::BTreeMap;

use crate::cleanse;

/// What is read; nothing else is kept.
const NAMES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_KMS",
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_CA_BUNDLE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "HOME",
];

/// Variables with a value. An empty one counts as absent, as AWS tools have it.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<&'static str, String>);

impl Environment {
    /// This process's.
    #[must_use]
    pub fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    /// What `read` gives for each name.
    pub fn new(read: impl Fn(&str) -> Option<String>) -> Self {
        let pairs = NAMES.iter().filter_map(|name| Some((*name, read(name)?)));
        Self(pairs.filter(|(_, value)| !value.is_empty()).collect())
    }

    /// The value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(NAMES.contains(&name), "{name} is not read");
        self.0.get(name).map(String::as_str)
    }

    /// A file named by a variable, or one below the home directory.
    pub(super) fn path(&self, name: &str, below_home: &str) -> Option<std::path::PathBuf> {
        match self.get(name) {
            Some(path) => Some(path.into()),
            None => self.get("HOME").map(|home| std::path::Path::new(home).join(below_home)),
        }
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        for value in std::mem::take(&mut self.0).into_values() {
            cleanse(&mut value.into_bytes());
        }
    }
}

impl std::fmt::Debug for Environment {
    /// Names alone: values may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
