//! Files an actor names itself, and the answers about them.

use sheen_types::{Fid, FileKind, Layout, Name};
use sheen_wire::{Field, metadata::Create};

use crate::{
    answer::Ended,
    files::Files,
    operation::{Operation, Place},
    workload::Worker,
};

/// A file with content in an actor's own directory.
#[derive(Debug)]
pub struct OwnFile {
    /// Its inode.
    pub fid: Fid,
    /// Its name, if it has one.
    pub name: Option<Name>,
    /// Whether the actor has it open.
    pub open: bool,
    /// Whether it had a name and lost it.
    pub is_unlinked: bool,
}

/// The object of a file that was just made.
///
/// # Errors
/// When the answer does not tell.
pub fn place_of(ended: &Ended) -> Result<Place, String> {
    let layout = Layout::from_bytes(&ended.payload).map_err(|e| format!("layout: {e}"))?;
    let stripe = layout.components.first().and_then(|component| component.objects.first());
    let stripe = stripe.ok_or("a new file without an object")?;
    Ok(Place { ost: stripe.ost, object: stripe.object })
}

impl Worker {
    /// Takes an answer in.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn take(&mut self, ended: &Ended, files: &Files) -> Result<(), String> {
        if self.naming.as_ref() == Some(&ended.operation) {
            self.naming = None;
        }
        match &ended.operation {
            Operation::Create(request, _) if ended.status == 0 => {
                self.created(request, ended, files)
            }
            _ => Ok(()),
        }
    }

    fn created(&mut self, request: &Create, ended: &Ended, files: &Files) -> Result<(), String> {
        let has_content = request.unnamed || request.name.as_bytes().starts_with(b"d");
        if request.kind != FileKind::Regular || !has_content {
            return Ok(());
        }
        files.add(request.fid, place_of(ended)?);
        self.made.push(request.fid);
        self.files.push(OwnFile {
            fid: request.fid,
            name: (!request.unnamed).then(|| request.name.clone()),
            open: request.open != 0,
            is_unlinked: false,
        });
        Ok(())
    }

    /// Nothing is open any more: files without a name are gone.
    pub fn close_all(&mut self) {
        let gone = self.files.extract_if(.., |file| file.name.is_none());
        self.dropped.extend(gone.map(|file| file.fid));
        self.files.iter_mut().for_each(|file| file.open = false);
    }
}
