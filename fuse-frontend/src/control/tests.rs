use super::*;

#[test]
fn command_numbers_are_what_the_kernel_derives_from_direction_size_group_and_number() {
    assert_eq!(FORK, 0x4110_E701);
    assert_eq!(DELETE, 0x4108_E702);
    assert_eq!(SYNC, 0x0000_E703);
    assert_eq!(STATUS, 0x8618_E704);
    assert_eq!(UNMOUNT_PREPARE, 0x0000_E705);
}

#[test]
fn a_fork_request_survives_the_way_through_bytes() {
    let request = Fork::new(42, b"copy").unwrap();
    let back = Fork::read_from_bytes(request.as_bytes()).unwrap();
    assert_eq!((back.source.get(), back.name()), (42, Some(&b"copy"[..])));
}

#[test]
fn names_that_no_directory_can_hold_are_refused_on_both_sides() {
    assert!(Delete::new(b"").is_none());
    assert!(Delete::new(&[b'x'; 256]).is_none());
    assert!(Delete::new(&[b'x'; 255]).unwrap().name().is_some());
    for bad in [&b"."[..], b"..", b"a/b", b"a\0b"] {
        assert_eq!(Delete::new(bad).unwrap().name(), None, "{bad:?}");
    }
}

#[test]
fn requests_with_unknown_flags_or_lengths_are_refused() {
    let mut request = Fork::new(1, b"x").unwrap();
    request.flags = U32::new(1);
    assert_eq!(request.name(), None);
    let mut request = Delete::new(b"x").unwrap();
    request.name_bytes = U16::new(300);
    assert_eq!(request.name(), None);
}

#[test]
fn long_texts_are_cut_and_not_refused() {
    let (length, packed) = pack::<4>(b"abcdef");
    assert_eq!((length.get(), &packed[..]), (4, &b"abcd"[..]));
}
