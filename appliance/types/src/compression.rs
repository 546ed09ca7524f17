//! How content is compressed, and the inode flags that say so.
//!
//! A file or directory carries its choice in its flags (`lsattr`): [`flags::COMPRESS`] asks for LZ4, together with
//! [`flags::ZSTD`] for zstd, [`flags::NO_COMPRESS`] for none. It holds for what is written from then on.

use std::{fmt, str::FromStr};

/// Inode flags of compression, numbered as `chattr` does (`FS_*_FL`).
pub mod flags {
    /// `chattr +c`: compress (`FS_COMPR_FL`).
    pub const COMPRESS: u32 = 0x4;
    /// `chattr +m`: do not compress, whatever the directory says (`FS_NOCOMP_FL`).
    pub const NO_COMPRESS: u32 = 0x400;
    /// Ours alone, of a number no Linux file system uses: with [`COMPRESS`], zstd in place of LZ4.
    pub const ZSTD: u32 = 0x0100_0000;
    /// All of them.
    pub const ALL: u32 = COMPRESS | NO_COMPRESS | ZSTD;
}

/// A way to compress; the number is that in the formats of disk and wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Codec {
    /// LZ4, block format.
    Lz4 = 1,
    /// Zstandard, one frame.
    Zstd = 2,
}

impl Codec {
    /// The codec with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// What is asked for when content is written; the number is that on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Compression {
    /// As it is.
    #[default]
    None = 0,
    /// LZ4: costs little, shrinks text and zeros.
    Lz4 = 1,
    /// Zstandard: costs more, shrinks more.
    Zstd = 2,
}

impl Compression {
    /// Every choice, in order of its number.
    pub const ALL: [Self; 3] = [Self::None, Self::Lz4, Self::Zstd];

    /// The choice with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What does it.
    #[must_use]
    pub const fn codec(self) -> Option<Codec> {
        match self {
            Self::None => None,
            Self::Lz4 => Some(Codec::Lz4),
            Self::Zstd => Some(Codec::Zstd),
        }
    }

    /// The choice that inode flags express.
    #[must_use]
    pub const fn of_flags(inode: u32) -> Self {
        if inode & flags::NO_COMPRESS != 0 || inode & flags::COMPRESS == 0 {
            Self::None
        } else if inode & flags::ZSTD != 0 {
            Self::Zstd
        } else {
            Self::Lz4
        }
    }

    /// Inode flags `inode` with this choice in place of theirs. None is expressed by [`flags::NO_COMPRESS`], so that it also
    /// holds in a directory that compresses.
    #[must_use]
    pub const fn in_flags(self, inode: u32) -> u32 {
        let others = inode & !flags::ALL;
        others
            | match self {
                Self::None => flags::NO_COMPRESS,
                Self::Lz4 => flags::COMPRESS,
                Self::Zstd => flags::COMPRESS | flags::ZSTD,
            }
    }

    /// Its name on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Inode flags as they are kept when `new` are set where `old` were: of "compress" and "do not" the one that was not there
/// wins (both new: "do not"), and the codec goes with "compress". So `chattr +m` ends `+c` and the other way round.
#[must_use]
pub const fn settle(old: u32, new: u32) -> u32 {
    let both = flags::COMPRESS | flags::NO_COMPRESS;
    let mut kept = new;
    if new & both == both {
        let compress_is_new = old & flags::COMPRESS == 0 && old & flags::NO_COMPRESS != 0;
        kept &= if compress_is_new { !flags::NO_COMPRESS } else { !flags::COMPRESS };
    }
    if kept & flags::COMPRESS == 0 { kept & !flags::ZSTD } else { kept }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The word names no compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionError;

impl fmt::Display for CompressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected none, lz4 or zstd")
    }
}

impl std::error::Error for CompressionError {}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, CompressionError> {
        Self::ALL.into_iter().find(|choice| choice.name() == text).ok_or(CompressionError)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_choice_survives_numbers_names_and_flags() {
        for choice in Compression::ALL {
            assert_eq!(Compression::from_number(choice.number()), Some(choice));
            assert_eq!(choice.name().parse(), Ok(choice));
            assert_eq!(Compression::of_flags(choice.in_flags(!0)), choice);
            assert_eq!(choice.in_flags(0x10) & !flags::ALL, 0x10, "other flags stay");
            if let Some(codec) = choice.codec() {
                assert_eq!(Codec::from_number(codec.number()), Some(codec));
                assert_eq!(codec.number(), choice.number());
            }
        }
        assert_eq!(Compression::from_number(3), None);
        assert_eq!(Codec::from_number(0), None);
        assert_eq!("gzip".parse::<Compression>(), Err(CompressionError));
    }

    #[test]
    fn the_newer_of_two_contrary_flags_wins() {
        let (on, off, zstd) = (flags::COMPRESS, flags::NO_COMPRESS, flags::ZSTD);
        assert_eq!(settle(on, on | off), off, "chattr +m on a compressed file");
        assert_eq!(settle(off, on | off), on, "chattr +c where it was forbidden");
        assert_eq!(settle(0, on | off), off);
        assert_eq!(settle(on | zstd, on | zstd | off), off, "the codec goes with compression");
        assert_eq!(settle(on | zstd, zstd), 0, "chattr -c");
        assert_eq!(settle(0, on | zstd), on | zstd);
    }
}
