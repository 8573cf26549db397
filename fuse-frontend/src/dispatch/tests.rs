use super::*;
use envoyfs_namespace::api::Time;

fn attributes(file_type: FileType, permissions: u16) -> Attributes {
    let entry = DirectoryEntry { name: b"x".to_vec(), id: InodeId(2), file_type, cookie: 16 };
    Attributes { permissions, atime: Time::default(), ..names_only(&entry) }
}

#[test]
fn set_id_bits_go_from_executables_only() {
    let kept = |permissions| without_set_id(&attributes(FileType::Regular, permissions), false);
    assert_eq!(kept(0o4755), Some(0o755));
    assert_eq!(kept(0o2755), Some(0o755));
    assert_eq!(kept(0o6755), Some(0o755));
    // Set-group-id without group execution marks mandatory locking: it stays.
    assert_eq!(kept(0o2644), None);
    assert_eq!(kept(0o755), None);
    assert_eq!(without_set_id(&attributes(FileType::Directory, 0o2755), true), None);
    assert_eq!(without_set_id(&attributes(FileType::Fifo, 0o4755), false), None);
    assert_eq!(without_set_id(&attributes(FileType::Fifo, 0o4755), true), Some(0o755));
}

#[test]
fn rename_flags_other_than_one_of_noreplace_and_exchange_are_refused() {
    assert_eq!(rename_mode(0), Some(RenameMode::Replace));
    assert_eq!(rename_mode(libc::RENAME_NOREPLACE), Some(RenameMode::NoReplace));
    assert_eq!(rename_mode(libc::RENAME_EXCHANGE), Some(RenameMode::Exchange));
    assert_eq!(rename_mode(libc::RENAME_WHITEOUT), None);
    assert_eq!(rename_mode(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE), None);
}

#[test]
fn access_control_lists_and_unknown_classes_of_attributes_are_not_offered() {
    assert!(is_offered(b"user.a") && is_offered(b"security.capability") && is_offered(b"trusted.x"));
    assert!(!is_offered(b"system.posix_acl_access") && !is_offered(b"a") && !is_offered(b"os2.x"));
}

#[test]
fn node_types_are_mapped_and_directories_refused() {
    assert_eq!(special(libc::S_IFREG | 0o644, 7), Some(Make::File));
    assert_eq!(special(libc::S_IFCHR | 0o600, 7), Some(Make::Special(FileType::CharDevice, 7)));
    assert_eq!(special(libc::S_IFIFO, 7), Some(Make::Special(FileType::Fifo, 0)));
    assert_eq!(special(libc::S_IFDIR, 0), None);
}
