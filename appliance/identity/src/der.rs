//! As much of DER [X.690] as a certificate's frame needs: elements one after the other, of definite length.

/// Bytes that are not the DER that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DerError;

/// Tags of elements.
pub(crate) mod tag {
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    /// `[0]`, constructed: the version of a certificate.
    pub(crate) const VERSION: u8 = 0xa0;
}

/// What is left of a run of elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Takes the next element, whatever it is: its tag and content.
    pub(crate) fn any(&mut self) -> Result<(u8, &'a [u8]), DerError> {
        let (&tag, rest) = self.0.split_first().ok_or(DerError)?;
        let (&first, rest) = rest.split_first().ok_or(DerError)?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => {
                let (&length, rest) = rest.split_first().ok_or(DerError)?;
                (usize::from(length), rest)
            }
            0x82 => {
                let (length, rest) = rest.split_first_chunk().ok_or(DerError)?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            _ => return Err(DerError),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(DerError)?;
        self.0 = rest;
        Ok((tag, content))
    }

    /// Takes the next element, which must have this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        let (found, content) = self.any()?;
        if found == tag { Ok(content) } else { Err(DerError) }
    }

    /// Takes the next element, a SEQUENCE, to walk through it.
    pub(crate) fn sequence(&mut self) -> Result<Self, DerError> {
        self.take(tag::SEQUENCE).map(Self)
    }

    /// Ends the walk: nothing may be left.
    pub(crate) const fn finish(self) -> Result<(), DerError> {
        if self.0.is_empty() { Ok(()) } else { Err(DerError) }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn elements_of_every_length_are_taken_and_nothing_beyond_the_end() {
        for length in [0, 1, 127, 128, 255, 256, 2000] {
            let mut bytes = vec![tag::SEQUENCE];
            match length {
                0..128 => bytes.push(u8::try_from(length).unwrap()),
                128..256 => bytes.extend([0x81, u8::try_from(length).unwrap()]),
                _ => bytes
                    .extend([&[0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat()),
            }
            bytes.extend(vec![7; length]);
            bytes.extend([tag::INTEGER, 1, 9]);
            let mut elements = Elements::new(&bytes);
            assert_eq!(elements.take(tag::SEQUENCE).unwrap().len(), length);
            assert_eq!(elements.finish(), Err(DerError));
            assert_eq!(elements.take(tag::INTEGER), Ok(&[9][..]));
            assert_eq!(elements.finish(), Ok(()));
            for cut in 0..bytes.len() - 3 {
                assert_eq!(Elements::new(&bytes[..cut]).any(), Err(DerError));
            }
        }
        for bytes in [&[0x30, 0x80, 0, 0][..], &[0x30, 0x83, 0, 0, 1, 5], &[0x30, 0xff]] {
            assert_eq!(Elements::new(bytes).any(), Err(DerError));
        }
        assert_eq!(Elements::new(&[tag::INTEGER, 0]).sequence().map(|_| ()), Err(DerError));
    }
}
