//! What a mutant is, and how one is planted in a text.

use anyhow::{Result, bail};

/// A bug to plant.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What it does wrong, and which promise that breaks.
    pub story: &'static str,
    /// Source file, from the workspace's root.
    pub file: &'static str,
    /// What stands there, and what is put in its place.
    pub replacements: &'static [(&'static str, &'static str)],
    /// What must fail then, each by itself.
    pub proofs: &'static [Proof],
}

/// Something that passes without the mutant, and must fail with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// A test that fails.
    Test(TestTarget, &'static str),
    /// A test that fails, or does not end.
    TestOrHang(TestTarget, &'static str),
    /// So many seeds of the simulator.
    Seeds(u64),
    /// The explorer of crash states.
    CrashStates,
}

/// Where a test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TestTarget {
    /// Package.
    pub package: &'static str,
    /// Integration test; None: the library's own tests.
    pub file: Option<&'static str>,
}

impl TestTarget {
    /// The tests in the library of a package.
    pub(crate) const fn library(package: &'static str) -> Self {
        Self { package, file: None }
    }

    /// An integration test of a package.
    pub(crate) const fn integration(package: &'static str, file: &'static str) -> Self {
        Self { package, file: Some(file) }
    }
}

impl Mutant {
    /// `text`, the content of [`Mutant::file`], with the bug in it.
    ///
    /// # Errors
    /// When what is to be replaced does not stand there exactly once.
    pub fn planted(&self, text: &str) -> Result<String> {
        let mut text = text.to_owned();
        for (from, to) in self.replacements {
            let count = text.matches(from).count();
            if count != 1 {
                bail!("{}: {} holds {count} times, not once:\n{from}", self.name, self.file);
            }
            text = text.replace(from, to);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod test {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;
    use crate::{all, store};

    #[test]
    fn every_text_to_replace_stands_once_in_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for mutant in all().chain(store::MUTANTS) {
            let text = fs::read_to_string(root.join(mutant.file)).unwrap();
            let planted = mutant.planted(&text).unwrap();
            assert_ne!(planted, text, "{}", mutant.name);
        }
    }

    #[test]
    fn names_are_unique_and_everything_has_a_proof() {
        let mut names = BTreeSet::new();
        for mutant in all().chain(store::MUTANTS) {
            assert!(names.insert(mutant.name), "{} twice", mutant.name);
            assert!(!mutant.proofs.is_empty(), "{}", mutant.name);
        }
    }

    #[test]
    fn a_text_that_stands_twice_or_not_at_all_is_an_error() {
        let replacements = &[("a < b", "a <= b")];
        let mutant = Mutant { name: "m", story: "", file: "f", replacements, proofs: &[] };
        assert_eq!(mutant.planted("if a < b {}").unwrap(), "if a <= b {}");
        assert!(mutant.planted("if a > b {}").is_err());
        assert!(mutant.planted("a < b, a < b").is_err());
    }
}
