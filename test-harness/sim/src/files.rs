//! Every file with content, as the simulator knows it; clients look only whether the one they take over may have lost
//! something.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use sheen_types::Fid;

use crate::{file_model::FileModel, operation::Place};

/// A file with content.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// Its object.
    pub place: Place,
    /// What it holds.
    pub model: FileModel,
}

/// All of them; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Files(Rc<RefCell<BTreeMap<Fid, DataFile>>>);

impl Files {
    /// A new one.
    pub fn add(&self, fid: Fid, place: Place) {
        self.0.borrow_mut().insert(fid, DataFile { place, model: FileModel::default() });
    }

    /// Where one lies.
    #[must_use]
    pub fn place(&self, fid: Fid) -> Option<Place> {
        self.0.borrow().get(&fid).map(|file| file.place)
    }

    /// Whether `client` must make durable what it finds there before it relies on it: another client that is gone left changes
    /// that were not.
    #[must_use]
    pub fn is_doubtful(&self, fid: Fid, client: usize) -> bool {
        self.0.borrow().get(&fid).is_some_and(|file| file.model.is_doubtful(client))
    }

    /// Does something with one.
    pub fn with<T>(&self, fid: Fid, act: impl FnOnce(&mut DataFile) -> T) -> Option<T> {
        self.0.borrow_mut().get_mut(&fid).map(act)
    }

    /// Does something with the one that lies there.
    pub fn with_place<T>(&self, place: Place, act: impl FnOnce(&mut DataFile) -> T) -> Option<T> {
        self.0.borrow_mut().values_mut().find(|file| file.place == place).map(act)
    }

    /// A client is gone: what it changed and was not durable may be lost. Returns how many files that may be.
    pub fn lose_writer(&self, client: usize) -> u64 {
        let mut files = self.0.borrow_mut();
        files.values_mut().map(|file| u64::from(file.model.lose_writer(client))).sum()
    }
}
