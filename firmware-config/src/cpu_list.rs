//! The kernel's way to write sets of CPUs: `0-3,8,10-11`.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::Serialize;

/// CPUs the kernel supports at most (`NR_CPUS` of distributions); a list beyond it is refused.
const CPUS_MAX: usize = 8192;

/// A set of CPU numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct CpuList(pub BTreeSet<usize>);

/// The text is not a list of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuListError;

impl fmt::Display for CpuListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a list of CPUs such as 0-3,8")
    }
}

impl std::error::Error for CpuListError {}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, CpuListError> {
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse::<usize>().map_err(|_| CpuListError);
            let (first, last) = (number(first)?, number(last)?);
            if first > last || last >= CPUS_MAX {
                return Err(CpuListError);
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn lists_read_back_as_they_were_written() {
        for text in ["", "0", "0-3", "0-3,8,10-11", "1,3,5"] {
            assert_eq!(text.parse::<CpuList>().unwrap().to_string(), text);
        }
        assert_eq!("0,1,2,2-4\n".parse::<CpuList>().unwrap().to_string(), "0-4");
        for wrong in ["x", "3-1", "1-", "-1", "0-99999999"] {
            assert_eq!(wrong.parse::<CpuList>(), Err(CpuListError), "{wrong}");
        }
    }
}
