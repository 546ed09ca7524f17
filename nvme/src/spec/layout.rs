//! How the tables of this module are written down: structures by byte offset, registers by bit range.
//!
//! `layout!` makes a plain Rust structure with a decoder from and an encoder to bytes, little-endian [NVMe-2.0c §1.5]; that
//! fields are in order, do not overlap and fit is checked when compiling. What lies between fields is reserved or not looked
//! at: ignored when decoding, zero when encoding. `bits!` makes a newtype with a getter and a setter per field.

/// A value a table's field can have: decoded from exactly `BYTES` bytes.
pub trait Field: Sized {
    /// Its size.
    const BYTES: usize;
    /// Decodes it.
    fn load(bytes: &[u8]) -> Self;
    /// Encodes it.
    fn store(&self, bytes: &mut [u8]);
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            const BYTES: usize = size_of::<$integer>();
            fn load(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$integer>()];
                array.copy_from_slice(bytes);
                Self::from_le_bytes(array)
            }
            fn store(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, u128);

impl<F: Field, const N: usize> Field for [F; N] {
    const BYTES: usize = F::BYTES * N;
    fn load(bytes: &[u8]) -> Self {
        std::array::from_fn(|index| F::load(&bytes[index * F::BYTES..(index + 1) * F::BYTES]))
    }
    fn store(&self, bytes: &mut [u8]) {
        for (value, bytes) in self.iter().zip(bytes.chunks_exact_mut(F::BYTES)) {
            value.store(bytes);
        }
    }
}

/// A value of some bits of a register.
pub trait Bits: Sized {
    /// From the lowest bits; the others are zero.
    fn from_bits(bits: u64) -> Self;
    /// To the lowest bits.
    fn into_bits(self) -> u64;
}

impl Bits for bool {
    fn from_bits(bits: u64) -> Self {
        bits != 0
    }
    fn into_bits(self) -> u64 {
        u64::from(self)
    }
}

macro_rules! bit_integers {
    ($($integer:ty),*) => {$(
        impl Bits for $integer {
            #[expect(clippy::allow_attributes, reason = "one of four types needs no truncation")]
            #[allow(clippy::cast_possible_truncation, reason = "`bits!` checks that the field fits")]
            fn from_bits(bits: u64) -> Self {
                bits as $integer
            }
            fn into_bits(self) -> u64 {
                u64::from(self)
            }
        }
    )*};
}
bit_integers!(u8, u16, u32, u64);

/// The lower half of a 64-bit word.
#[inline]
#[must_use]
pub const fn low32(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

macro_rules! bits {
    (
        $(#[$meta:meta])*
        $name:ident: $raw:ty {
            $( $(#[$field_meta:meta])* $high:literal : $low:literal $field:ident $with:ident: $type:ty ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name(pub $raw);

        impl $name {
            $(
                $(#[$field_meta])*
                #[must_use]
                pub fn $field(self) -> $type {
                    const _: () = {
                        assert!($high >= $low, "the high bit comes first");
                        assert!($high < <$raw>::BITS, "the field lies in the register");
                    };
                    const MASK: u64 = u64::MAX >> (63 - ($high - $low));
                    $crate::spec::layout::Bits::from_bits((u64::from(self.0) >> $low) & MASK)
                }

                /// With this field set; bits that do not fit are cut off.
                #[must_use]
                pub fn $with(self, value: $type) -> Self {
                    const MASK: u64 = (u64::MAX >> (63 - ($high - $low))) << $low;
                    let bits = ($crate::spec::layout::Bits::into_bits(value) << $low) & MASK;
                    let rest = u64::from(self.0) & !MASK;
                    Self($crate::spec::layout::Bits::from_bits(rest | bits))
                }
            )*
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &self.$field()))*
                    .finish()
            }
        }

        impl $crate::spec::layout::Field for $name {
            const BYTES: usize = size_of::<$raw>();
            fn load(bytes: &[u8]) -> Self {
                Self(<$raw as $crate::spec::layout::Field>::load(bytes))
            }
            fn store(&self, bytes: &mut [u8]) {
                self.0.store(bytes);
            }
        }
    };
}
pub(crate) use bits;

macro_rules! layout {
    (
        $(#[$meta:meta])*
        $name:ident: $bytes:literal {
            $( $(#[$field_meta:meta])* $offset:literal $field:ident: $type:ty ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        const _: () = {
            let mut end: usize = 0;
            $(
                assert!($offset >= end, "fields are in order and do not overlap");
                end = $offset + <$type as $crate::spec::layout::Field>::BYTES;
            )*
            assert!(end <= $bytes, "fields fit the structure");
        };

        impl $name {
            /// Size of the structure in bytes.
            pub const BYTES: usize = $bytes;

            /// Decodes the structure.
            #[must_use]
            pub fn decode(bytes: &[u8; $bytes]) -> Self {
                <Self as $crate::spec::layout::Field>::load(bytes)
            }

            /// Decodes the structure at the start of `bytes`. None: they are too few.
            #[must_use]
            pub fn decode_prefix(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(Self::decode)
            }

            /// Encodes the structure; reserved bytes are zero.
            #[must_use]
            pub fn encode(&self) -> [u8; $bytes] {
                let mut bytes = [0; $bytes];
                $crate::spec::layout::Field::store(self, &mut bytes);
                bytes
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::decode(&[0; $bytes])
            }
        }

        impl $crate::spec::layout::Field for $name {
            const BYTES: usize = $bytes;
            fn load(bytes: &[u8]) -> Self {
                Self {
                    $( $field: $crate::spec::layout::Field::load(
                        &bytes[$offset..$offset + <$type as $crate::spec::layout::Field>::BYTES]), )*
                }
            }
            fn store(&self, bytes: &mut [u8]) {
                $( self.$field.store(
                    &mut bytes[$offset..$offset + <$type as $crate::spec::layout::Field>::BYTES]); )*
            }
        }
    };
}
pub(crate) use layout;

/// Text of a fixed-length field: ASCII, padded with spaces [NVMe-2.0c §1.4.2]; what is not printable becomes `?`.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let printable = |&byte: &u8| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '?' };
    let end = bytes.iter().rposition(|&byte| byte != b' ' && byte != 0).map_or(0, |last| last + 1);
    bytes[..end].iter().map(printable).collect()
}

#[cfg(test)]
#[expect(
    unreachable_pub,
    dead_code,
    reason = "the macros make public items for this crate's users"
)]
mod test {
    use super::text;

    bits! {
        /// For the test.
        Sample: u32 {
            /// Low.
            3:0 low with_low: u8,
            /// One bit.
            4:4 flag with_flag: bool,
            /// High.
            31:16 high with_high: u16,
        }
    }

    layout! {
        /// For the test.
        Table: 16 {
            /// A register.
            4 sample: Sample,
            /// Bytes.
            10 bytes: [u8; 3],
        }
    }

    #[test]
    fn a_setter_changes_its_field_alone() {
        let sample = Sample(u32::MAX).with_low(0x35).with_flag(false).with_high(0x1234);
        assert_eq!(sample, Sample(0x1234_ffe5));
        assert_eq!((sample.low(), sample.flag(), sample.high()), (5, false, 0x1234));
    }

    #[test]
    fn a_table_is_decoded_by_offset_and_reserved_bytes_are_zero() {
        let mut bytes = [0xff; 16];
        bytes[4..8].copy_from_slice(&0x0008_0011_u32.to_le_bytes());
        let table = Table::decode(&bytes);
        assert_eq!((table.sample.low(), table.sample.flag(), table.sample.high()), (1, true, 8));
        let expected = [0, 0, 0, 0, 0x11, 0, 8, 0, 0, 0, 0xff, 0xff, 0xff, 0, 0, 0];
        assert_eq!(table.encode(), expected);
        assert_eq!(Table::decode_prefix(&bytes[..15]), None);
    }

    #[test]
    fn text_ends_before_its_padding_and_shows_what_is_not_text() {
        assert_eq!(text(b"QEMU NVMe\x01 \0  "), "QEMU NVMe?");
        assert_eq!(text(b"    "), "");
    }
}
