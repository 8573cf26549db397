//! Numbers in as few bytes as they need: seven bits a byte, the low ones first, the eighth set in all but the last. Each number has one form only.

/// Most bytes that a number takes.
pub(crate) const BYTES_MAX: usize = 10;

/// Appends a number.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A difference as a number that is small when the difference is small, whatever its sign.
pub(crate) const fn fold(difference: i64) -> u64 {
    ((difference << 1) ^ (difference >> 63)).cast_unsigned()
}

/// The other way.
pub(crate) const fn unfold(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Takes a number off the front; `None` if there is none, or not in its one form.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        let part = u64::from(byte & 0x7f);
        value |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        *bytes = rest;
        if byte & 0x80 == 0 {
            return (part != 0 || shift == 0).then_some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(value: u64, difference: i64) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            prop_assert!(bytes.len() <= BYTES_MAX);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
            prop_assert_eq!(unfold(fold(difference)), difference);
        }

        #[test]
        fn what_is_read_is_what_would_be_written(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut rest = bytes.as_slice();
            if let Some(value) = take(&mut rest) {
                let mut again = Vec::new();
                put(&mut again, value);
                prop_assert_eq!(&bytes[..bytes.len() - rest.len()], again.as_slice());
            }
        }
    }

    #[test]
    fn small_numbers_take_one_byte_and_cut_ones_none() {
        let mut bytes = Vec::new();
        put(&mut bytes, 127);
        put(&mut bytes, 128);
        assert_eq!(bytes, [127, 128, 1]);
        assert_eq!((fold(0), fold(-1), fold(1), fold(i64::MIN)), (0, 1, 2, u64::MAX));
        for bad in [&[][..], &[0x80], &[0x80, 0], &[0xff; 10]] {
            assert_eq!(take(&mut &*bad), None, "{bad:?}");
        }
    }
}
