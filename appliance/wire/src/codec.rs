//! The one way bytes of messages are made and read: fields in order, little-endian, no padding.
//!
//! Every [`Field`] has a bound; a reader never allocates more than the body it was given.

use std::fmt;

/// Why bytes are not the message they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The message ends inside a field.
    Short,
    /// Bytes follow the last field.
    Long,
    /// A field holds a value it must not; the name says which.
    Value(&'static str),
    /// Not our protocol, or a version we do not speak.
    Version(u16),
    /// The checksum of frame and body is wrong.
    Checksum {
        /// What the message says.
        expected: u32,
        /// What its bytes sum to.
        found: u32,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("message ends inside a field"),
            Self::Long => f.write_str("bytes after the last field"),
            Self::Value(field) => write!(f, "impossible value in {field}"),
            Self::Version(found) => write!(f, "protocol version {found} is not spoken here"),
            Self::Checksum { expected, found } => {
                write!(f, "message checksum {found:#010x}, expected {expected:#010x}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// Writes fields to the end of a byte vector.
#[derive(Debug)]
pub struct Encoder<'a>(pub &'a mut Vec<u8>);

impl Encoder<'_> {
    /// Appends raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// Reads fields from the front of a byte slice.
#[derive(Debug)]
pub struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Takes the next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`] if fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Bytes not read yet.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.0.len()
    }

    /// Checks that everything was read.
    ///
    /// # Errors
    /// [`DecodeError::Long`] if bytes are left.
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Long) }
    }
}

/// A value with a fixed way to be written.
pub trait Field: Sized {
    /// Appends the value.
    fn encode(&self, out: &mut Encoder<'_>);

    /// Reads the value.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not one.
    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError>;

    /// The value as bytes of its own.
    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut Encoder(&mut bytes));
        bytes
    }

    /// Reads a value that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not one, or more.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(bytes);
        let value = Self::decode(&mut input)?;
        input.finish()?;
        Ok(value)
    }
}

/// Declares a message body: a struct whose fields are written in the order they stand.
#[macro_export]
macro_rules! message {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$fdoc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

        impl $crate::codec::Field for $name {
            fn encode(&self, out: &mut $crate::codec::Encoder<'_>) {
                $($crate::codec::Field::encode(&self.$field, out);)*
                let _ = out;
            }

            fn decode(
                input: &mut $crate::codec::Decoder<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                let _ = &input;
                Ok(Self { $($field: $crate::codec::Field::decode(input)?,)* })
            }
        }
    };
}

/// Declares an enum of plain numbers that refuses numbers it does not have.
#[macro_export]
macro_rules! number_enum {
    ($(#[$doc:meta])* pub enum $name:ident: $int:ty { $($(#[$vdoc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr($int)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)* }

        impl $name {
            /// Every variant, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number of the variant.
            #[must_use]
            pub const fn number(self) -> $int { self as $int }

            /// The variant with this number.
            #[must_use]
            pub const fn from_number(number: $int) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The variant's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }
        }

        impl $crate::codec::Field for $name {
            fn encode(&self, out: &mut $crate::codec::Encoder<'_>) {
                $crate::codec::Field::encode(&self.number(), out);
            }

            fn decode(
                input: &mut $crate::codec::Decoder<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                let number = <$int as $crate::codec::Field>::decode(input)?;
                Self::from_number(number)
                    .ok_or($crate::codec::DecodeError::Value(stringify!($name)))
            }
        }
    };
}
