//! Mount options as people write them after `-o`, with the meanings of mount(8).

use nix::mount::MsFlags;

/// Why options were not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown mount option `{0}`")]
    Unknown(String),
    /// An option that needs a value, or one with a value of the wrong kind.
    #[error("mount option `{0}` needs {1}")]
    Value(String, &'static str),
    /// An option that takes no value.
    #[error("mount option `{0}` takes no value")]
    NoValue(String),
    /// A value that cannot be passed to the kernel.
    #[error("mount option `{0}`: a comma or a control character in its value")]
    Character(String),
}

/// How access times are kept; of the three exactly one holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtimePolicy {
    /// Never (`noatime`).
    Never,
    /// When older than the last change, or a day (`relatime`, Linux's default).
    Relative,
    /// Always (`strictatime`).
    Strict,
}

/// Options of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// What `mount` and `df` show as source (`fsname=`).
    pub source: String,
    /// The type is `fuse.SUBTYPE`, or `fuse` if None (`subtype=` with an empty value).
    pub subtype: Option<String>,
    /// Whether others than the mounting user may enter. None: if mounted by root.
    pub allow_other: Option<bool>,
    /// Let the kernel check permissions.
    pub default_permissions: bool,
    /// Most bytes of a READ; None: as much as the session allows.
    pub max_read: Option<u32>,
    /// Mount over a directory that is not empty.
    pub nonempty: bool,
    /// Change a mount that exists.
    pub remount: bool,
    /// Flags asked for.
    pub set: MsFlags,
    /// Flags asked not to be; only matters to a remount.
    pub clear: MsFlags,
    /// Access times, if said.
    pub atime: Option<AtimePolicy>,
    /// Options of the caller's, as named to [`MountOptions::parse`].
    pub extra: Vec<(String, Option<String>)>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            source: "sheen".to_owned(),
            subtype: Some("sheen".to_owned()),
            allow_other: None,
            default_permissions: true,
            max_read: None,
            nonempty: false,
            remount: false,
            set: MsFlags::empty(),
            clear: MsFlags::empty(),
            atime: None,
            extra: Vec::new(),
        }
    }
}

/// Options that speak to mount(8), systemd or fstab, not to us; and those the kernel shows of every FUSE mount, which mount(8) repeats
/// to a remount.
const IGNORED: &[&str] = &[
    "user_id",
    "group_id",
    "_netdev",
    "auto",
    "noauto",
    "nofail",
    "nouser",
    "nousers",
    "noowner",
    "nogroup",
    "loud",
    "iversion",
    "noiversion",
    "nomand",
    "comment",
    "helper",
    "uhelper",
];

/// Who may mount, with the restrictions that come with it.
const BY_USERS: &[&str] = &["user", "users", "owner", "group"];

impl MountOptions {
    /// Parses `a,b=c,…`; later options win. `extra` names options of the caller's, which are handed through.
    ///
    /// # Errors
    /// [`OptionError`] names the first option that is wrong.
    pub fn parse(text: &str, extra: &[&str]) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            options.apply(name, value, extra)?;
        }
        Ok(options)
    }

    fn apply(
        &mut self,
        name: &str,
        value: Option<&str>,
        extra: &[&str],
    ) -> Result<(), OptionError> {
        if value.is_some_and(|value| value.contains(|c: char| c == ',' || c.is_control())) {
            return Err(OptionError::Character(name.to_owned()));
        }
        if extra.contains(&name) {
            self.extra.push((name.to_owned(), value.map(str::to_owned)));
            return Ok(());
        }
        if IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("X-") {
            return Ok(());
        }
        if BY_USERS.contains(&name) {
            self.on(MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
            return Ok(());
        }
        if self.apply_valued(name, value)? {
            return Ok(());
        }
        if value.is_some() && Self::default().apply_plain(name) {
            return Err(OptionError::NoValue(name.to_owned()));
        }
        if self.apply_plain(name) { Ok(()) } else { Err(OptionError::Unknown(name.to_owned())) }
    }

    fn apply_valued(&mut self, name: &str, value: Option<&str>) -> Result<bool, OptionError> {
        let wrong = |need| OptionError::Value(name.to_owned(), need);
        match name {
            "fsname" => {
                let value = value.filter(|value| !value.is_empty());
                value.ok_or(wrong("a name"))?.clone_into(&mut self.source);
            }
            "subtype" => {
                let value = value.ok_or(wrong("a type"))?;
                self.subtype = (!value.is_empty()).then(|| value.to_owned());
            }
            "max_read" => {
                let bytes =
                    value.and_then(|value| value.parse().ok()).filter(|&bytes| bytes >= 4096);
                self.max_read = Some(bytes.ok_or(wrong("a number of bytes of at least 4096"))?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_plain(&mut self, name: &str) -> bool {
        match name {
            "defaults" => {
                let all = MsFlags::MS_RDONLY
                    | MsFlags::MS_NOSUID
                    | MsFlags::MS_NODEV
                    | MsFlags::MS_NOEXEC
                    | MsFlags::MS_SYNCHRONOUS;
                self.off(all);
            }
            "ro" => self.on(MsFlags::MS_RDONLY),
            "rw" => self.off(MsFlags::MS_RDONLY),
            "nosuid" => self.on(MsFlags::MS_NOSUID),
            "suid" => self.off(MsFlags::MS_NOSUID),
            "nodev" => self.on(MsFlags::MS_NODEV),
            "dev" => self.off(MsFlags::MS_NODEV),
            "noexec" => self.on(MsFlags::MS_NOEXEC),
            "exec" => self.off(MsFlags::MS_NOEXEC),
            "nosymfollow" => self.on(NOSYMFOLLOW),
            "symfollow" => self.off(NOSYMFOLLOW),
            "sync" => self.on(MsFlags::MS_SYNCHRONOUS),
            "async" => self.off(MsFlags::MS_SYNCHRONOUS),
            "dirsync" => self.on(MsFlags::MS_DIRSYNC),
            "silent" => self.on(MsFlags::MS_SILENT),
            "lazytime" => self.on(MsFlags::MS_LAZYTIME),
            "nolazytime" => self.off(MsFlags::MS_LAZYTIME),
            "nodiratime" => self.on(MsFlags::MS_NODIRATIME),
            "diratime" => self.off(MsFlags::MS_NODIRATIME),
            "noatime" => self.atime = Some(AtimePolicy::Never),
            "atime" | "relatime" => self.atime = Some(AtimePolicy::Relative),
            "norelatime" | "strictatime" => self.atime = Some(AtimePolicy::Strict),
            "nostrictatime" => self.atime = Some(AtimePolicy::Relative),
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "default_permissions" => self.default_permissions = true,
            "nodefault_permissions" => self.default_permissions = false,
            "nonempty" => self.nonempty = true,
            "remount" => self.remount = true,
            _ => return false,
        }
        true
    }

    fn on(&mut self, flags: MsFlags) {
        self.set.insert(flags);
        self.clear.remove(flags);
    }

    fn off(&mut self, flags: MsFlags) {
        self.clear.insert(flags);
        self.set.remove(flags);
    }

    /// Flags for a new mount.
    #[must_use]
    pub fn flags(&self) -> MsFlags {
        self.set | self.atime.map_or(MsFlags::empty(), atime_flag)
    }

    /// Whether directories keep no access times (`nodiratime`).
    #[must_use]
    pub fn without_directory_atime(&self) -> bool {
        self.set.contains(MsFlags::MS_NODIRATIME)
    }

    /// Flags for a remount of what has `current` flags: what is not said stays.
    #[must_use]
    pub fn flags_after(&self, current: MsFlags) -> MsFlags {
        let mut flags = (current | self.set) & !self.clear;
        if let Some(atime) = self.atime {
            flags.remove(MsFlags::MS_NOATIME | MsFlags::MS_RELATIME | MsFlags::MS_STRICTATIME);
            flags.insert(atime_flag(atime));
        }
        flags
    }

    /// The type to mount as.
    #[must_use]
    pub fn type_name(&self) -> String {
        match &self.subtype {
            Some(subtype) => format!("fuse.{subtype}"),
            None => "fuse".to_owned(),
        }
    }

    /// Words for flags, for `fusermount3`.
    pub(crate) fn flag_words(&self) -> Vec<&'static str> {
        let flags = self.flags();
        FLAG_WORDS.iter().filter(|(flag, _)| flags.contains(*flag)).map(|&(_, word)| word).collect()
    }
}

/// Not in the system crate's list.
const NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW);

/// Words of flags, as `mount` and the mount table spell them.
pub(crate) const FLAG_WORDS: &[(MsFlags, &str)] = &[
    (MsFlags::MS_RDONLY, "ro"),
    (MsFlags::MS_NOSUID, "nosuid"),
    (MsFlags::MS_NODEV, "nodev"),
    (MsFlags::MS_NOEXEC, "noexec"),
    (MsFlags::MS_SYNCHRONOUS, "sync"),
    (MsFlags::MS_DIRSYNC, "dirsync"),
    (MsFlags::MS_LAZYTIME, "lazytime"),
    (MsFlags::MS_NOATIME, "noatime"),
    (MsFlags::MS_NODIRATIME, "nodiratime"),
    (MsFlags::MS_RELATIME, "relatime"),
    (NOSYMFOLLOW, "nosymfollow"),
];

fn atime_flag(atime: AtimePolicy) -> MsFlags {
    match atime {
        AtimePolicy::Never => MsFlags::MS_NOATIME,
        AtimePolicy::Relative => MsFlags::MS_RELATIME,
        AtimePolicy::Strict => MsFlags::MS_STRICTATIME,
    }
}

#[cfg(test)]
#[path = "options_test.rs"]
mod test;
