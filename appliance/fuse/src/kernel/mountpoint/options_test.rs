//! Tests of mount options.

use super::*;

fn parse(text: &str) -> MountOptions {
    MountOptions::parse(text, &["workers"]).unwrap()
}

#[test]
fn an_fstab_line_of_a_cautious_administrator_is_understood() {
    let options =
        parse("defaults,_netdev,nofail,x-systemd.automount,x-gvfs-name=Big,noatime,nosuid");
    assert_eq!(options.flags(), MsFlags::MS_NOATIME | MsFlags::MS_NOSUID);
    assert!(!options.remount && options.extra.is_empty());
}

#[test]
fn later_options_win() {
    assert!(!parse("ro,rw").flags().contains(MsFlags::MS_RDONLY));
    assert!(parse("rw,ro").flags().contains(MsFlags::MS_RDONLY));
    assert_eq!(parse("noatime,strictatime").atime, Some(AtimePolicy::Strict));
    assert!(parse("defaults,noexec").flags().contains(MsFlags::MS_NOEXEC));
}

#[test]
fn a_mount_by_users_is_restricted_unless_said_otherwise() {
    let restricted = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    assert!(parse("user").flags().contains(restricted));
    assert!(!parse("user,exec").flags().contains(MsFlags::MS_NOEXEC));
}

#[test]
fn unknown_options_are_refused_by_name() {
    let wrong = |text: &str| MountOptions::parse(text, &["workers"]).unwrap_err();
    assert_eq!(wrong("ro,flobber"), OptionError::Unknown("flobber".into()));
    assert_eq!(wrong("flobber=3"), OptionError::Unknown("flobber".into()));
    assert_eq!(wrong("ro=1"), OptionError::NoValue("ro".into()));
    assert_eq!(wrong("fsname="), OptionError::Value("fsname".into(), "a name"));
    assert!(matches!(wrong("max_read=10"), OptionError::Value(..)));
    assert_eq!(wrong("fsname=a\nb"), OptionError::Character("fsname".into()));
    assert_eq!(wrong("mand"), OptionError::Unknown("mand".into()));
}

#[test]
fn source_type_and_callers_options_are_taken() {
    let options = parse("fsname=node1:/big,subtype=,workers=7,max_read=65536,allow_other");
    assert_eq!((options.source.as_str(), options.type_name().as_str()), ("node1:/big", "fuse"));
    assert_eq!(options.extra, [("workers".to_owned(), Some("7".to_owned()))]);
    assert_eq!((options.max_read, options.allow_other), (Some(65536), Some(true)));
    assert_eq!(parse("").type_name(), "fuse.sheen");
}

#[test]
fn what_the_kernel_shows_of_a_mount_is_understood_when_it_is_repeated() {
    let options =
        parse("rw,relatime,user_id=0,group_id=0,default_permissions,allow_other,remount,ro");
    assert!(options.remount && options.default_permissions);
}

#[test]
fn a_remount_changes_only_what_it_says() {
    let current = MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let after = parse("remount,ro").flags_after(current);
    assert_eq!(after, current | MsFlags::MS_RDONLY);
    let after = parse("remount,rw,exec,relatime").flags_after(after);
    assert_eq!(after, MsFlags::MS_RELATIME | MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
}
