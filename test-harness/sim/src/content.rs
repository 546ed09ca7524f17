//! Files with content, and the answers about it.

use sheen_types::{Fid, FileKind, Layout, Name};
use sheen_wire::{
    Field,
    metadata::Create,
    object::{ReadReply, WriteReply},
};

use crate::{
    answer::Ended,
    file_model::FileModel,
    node::Death,
    operation::{Operation, Place},
    workload::Worker,
};

/// A file with content.
#[derive(Debug)]
pub struct DataFile {
    /// Its inode.
    pub fid: Fid,
    /// Its object.
    pub place: Place,
    /// Its name in the actor's directory, if it has one.
    pub name: Option<Name>,
    /// Whether the actor has it open.
    pub open: bool,
    /// Its content.
    pub model: FileModel,
    /// How the node died since the content was looked at.
    pub crashed: Option<Death>,
}

impl Worker {
    /// Takes an answer in.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn take(&mut self, ended: &Ended) -> Result<(), String> {
        match &ended.operation {
            Operation::Create(request, _) if ended.status == 0 => self.created(request, ended),
            Operation::Edit(place, _) => self.edited(*place, ended),
            Operation::Read(place) => self.read(*place, ended),
            Operation::Sync(ost) if ended.status == 0 => {
                self.files
                    .iter_mut()
                    .filter(|f| f.place.ost == *ost)
                    .for_each(|f| f.model.synced());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn created(&mut self, request: &Create, ended: &Ended) -> Result<(), String> {
        let has_content = request.unnamed || request.name.as_bytes().starts_with(b"d");
        if request.kind != FileKind::Regular || !has_content {
            return Ok(());
        }
        let layout = Layout::from_bytes(&ended.payload).map_err(|e| format!("layout: {e}"))?;
        let stripe = layout.components.first().and_then(|component| component.objects.first());
        let stripe = stripe.ok_or("a new file without an object")?;
        let place = Place { ost: stripe.ost, object: stripe.object };
        self.places.push(place);
        self.files.push(DataFile {
            fid: request.fid,
            place,
            name: (!request.unnamed).then(|| request.name.clone()),
            open: request.open != 0,
            model: FileModel::default(),
            crashed: None,
        });
        Ok(())
    }

    fn file(&mut self, place: Place) -> Option<&mut DataFile> {
        self.files.iter_mut().find(|file| file.place == place)
    }

    fn edited(&mut self, place: Place, ended: &Ended) -> Result<(), String> {
        if ended.status != 0 {
            return Err(format!("{:?} failed: {}", ended.operation, ended.status));
        }
        let Some(file) = self.file(place) else { return Ok(()) };
        file.model.acknowledge();
        let reply = WriteReply::from_bytes(&ended.body).map_err(|e| e.to_string())?;
        let expected = file.model.current().0.len() as u64;
        if reply.size == expected {
            return Ok(());
        }
        Err(format!("{:?} left size {}, expected {expected}", ended.operation, reply.size))
    }

    fn read(&mut self, place: Place, ended: &Ended) -> Result<(), String> {
        if ended.status != 0 {
            return Err(format!("reading {place:?} failed: {}", ended.status));
        }
        let reply = ReadReply::from_bytes(&ended.body).map_err(|e| e.to_string())?;
        if reply.size != ended.payload.len() as u64 {
            return Err(format!("{place:?}: {} of {} bytes", ended.payload.len(), reply.size));
        }
        let Some(file) = self.file(place) else { return Ok(()) };
        let found = &ended.payload;
        let result = match (ended.probe, file.crashed.take()) {
            (true, Some(Death::Process)) => file.model.survive_kill(found).map(|()| false),
            (true, Some(Death::Power)) => file.model.survive_power_loss(found),
            (true, None) | (false, None) => file.model.check(found).map(|()| false),
            (false, Some(_)) => Err("read before it was looked at after a crash".to_owned()),
        };
        self.losses += u64::from(result.as_ref().is_ok_and(|&lost| lost));
        result.map(|_| ()).map_err(|why| format!("{place:?}: {why}"))
    }

    /// The node died.
    pub fn node_died(&mut self, death: Death) {
        for file in &mut self.files {
            let power = death == Death::Power || file.crashed == Some(Death::Power);
            file.crashed = Some(if power { Death::Power } else { Death::Process });
        }
    }

    /// A file nobody has looked at since the node died.
    #[must_use]
    pub fn next_probe(&self) -> Option<Operation> {
        let file = self.files.iter().find(|file| file.crashed.is_some())?;
        Some(Operation::Read(file.place))
    }
}
