//! The files `~/.aws/credentials` and `~/.aws/config`: sections with `name = value` lines.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::environment::Environment;
use crate::{LockError, Secret, cleanse};

/// Most bytes of such a file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a profile cannot be used.
#[derive(Debug, Error)]
pub(super) enum ProfileError {
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Memory(#[from] LockError),
}

/// What is read of a profile.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// Whether some file has it.
    pub(super) is_present: bool,
    pub(super) access_key_id: Option<String>,
    pub(super) secret_access_key: Option<Secret>,
    pub(super) session_token: Option<Secret>,
    pub(super) region: Option<String>,
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, else `default`. The credentials file goes before the configuration file.
    ///
    /// # Errors
    /// [`ProfileError`]; a file that is not there is none.
    pub(super) fn read(environment: &Environment) -> Result<Self, ProfileError> {
        let name = name(environment);
        let mut profile = Self::default();
        for (variable, below_home) in [
            ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
            ("AWS_CONFIG_FILE", ".aws/config"),
        ] {
            let Some(path) = environment.path(variable, below_home) else { continue };
            let Some(mut bytes) = contents(&path)? else { continue };
            let read = profile.read_text(&String::from_utf8_lossy(&bytes), name);
            cleanse(&mut bytes);
            read?;
        }
        Ok(profile)
    }

    fn read_text(&mut self, text: &str, name: &str) -> Result<(), LockError> {
        let mut is_ours = false;
        for line in text.lines() {
            let line = line.trim();
            if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                let section = section.trim();
                // The configuration file writes `profile x`, the credentials file `x`.
                let section = section.strip_prefix("profile ").map_or(section, str::trim);
                is_ours = section == name;
                self.is_present |= is_ours;
            } else if is_ours && let Some((key, value)) = line.split_once('=') {
                self.set(key.trim(), value.trim())?;
            }
        }
        Ok(())
    }

    /// What came first stays.
    fn set(&mut self, key: &str, value: &str) -> Result<(), LockError> {
        if value.is_empty() {
            return Ok(());
        }
        let text = |place: &mut Option<String>| {
            place.get_or_insert_with(|| value.to_owned());
        };
        match key {
            "aws_access_key_id" => text(&mut self.access_key_id),
            "region" => text(&mut self.region),
            "aws_secret_access_key" if self.secret_access_key.is_none() => {
                self.secret_access_key = Some(Secret::copy_of(value.as_bytes())?);
            }
            "aws_session_token" if self.session_token.is_none() => {
                self.session_token = Some(Secret::copy_of(value.as_bytes())?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The name of the profile in use.
pub(super) fn name(environment: &Environment) -> &str {
    environment.get("AWS_PROFILE").unwrap_or("default")
}

/// The content of a file; `None` when there is no such file.
fn contents(path: &Path) -> Result<Option<Vec<u8>>, ProfileError> {
    let failed = |cause| ProfileError::File { path: path.to_owned(), cause };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Room for all at once, so that no half-filled buffer is left behind by growth.
    let length = file.metadata().map_err(failed)?.len().min(FILE_BYTES_MAX) + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod test {
    use super::*;

    const CREDENTIALS: &str = "# a comment\n[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key=s1\n\n\
                               [other]\naws_access_key_id=AKIDOTHER\naws_secret_access_key = s=2\n\
                               aws_session_token = t2\n";
    const CONFIG: &str = "[default]\nregion=eu-west-1\n[profile other]\nregion = us-west-2\naws_access_key_id=LATE\n";

    fn profile(name: Option<&str>) -> Profile {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("credentials"), CREDENTIALS).unwrap();
        std::fs::write(folder.join("config"), CONFIG).unwrap();
        let environment = Environment::new(|variable| match variable {
            "HOME" => Some(home.path().display().to_string()),
            "AWS_PROFILE" => name.map(str::to_owned),
            _ => None,
        });
        Profile::read(&environment).unwrap()
    }

    #[test]
    fn the_default_profile_is_read_of_both_files() {
        let profile = profile(None);
        assert_eq!(profile.access_key_id.as_deref(), Some("AKIDDEFAULT"));
        assert_eq!(profile.secret_access_key.unwrap().expose(), b"s1");
        assert!(profile.session_token.is_none());
        assert_eq!(profile.region.as_deref(), Some("eu-west-1"));
    }

    #[test]
    fn a_named_profile_is_read_and_credentials_go_before_configuration() {
        let profile = profile(Some("other"));
        assert_eq!(profile.access_key_id.as_deref(), Some("AKIDOTHER"));
        assert_eq!(profile.secret_access_key.unwrap().expose(), b"s=2");
        assert_eq!(profile.session_token.unwrap().expose(), b"t2");
        assert_eq!(profile.region.as_deref(), Some("us-west-2"));
    }

    #[test]
    fn a_profile_that_is_nowhere_is_not_present() {
        assert!(!profile(Some("missing")).is_present);
    }
}
