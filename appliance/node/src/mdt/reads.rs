//! Requests that only read: answered at once from the applied state, with the leases that are free.

use sheen_types::{Errno, Fid};
use sheen_wire::{
    Encoder, Field,
    directory::DirectoryEntry,
    lease::bits,
    metadata::{
        EntryReply, FilesystemStatistics, FilesystemStatisticsReply, GetAttributes, ListXattr,
        Lookup, ReadDirectory, ReadDirectoryReply, ReadLink, XattrName,
    },
};

use super::{
    answers::READABLE,
    core::Mdt,
    request::{Answer, Incoming},
};

/// Fewest bytes of an entry without attributes: cookie, fid, kind, name of one byte, flag.
const ENTRY_BYTES_MIN: usize = 8 + 16 + 1 + 2 + 1;

impl Mdt {
    /// Finds a name. A change under way that may take the inode away was told whether anybody may be about to open it: who
    /// looks now looks after it. (One that still waits for leases is told when it is planned again.)
    pub(crate) fn lookup(&mut self, incoming: Incoming) {
        let Some(Lookup { parent, name }) = self.body_of(&incoming) else { return };
        let found = match &name {
            Some(name) => self.state.lookup(parent, name).map(|(fid, _)| fid),
            None => self.state.parent(parent),
        };
        if let Some(id) = found.as_ref().ok().and_then(|&fid| self.removal_of(fid)) {
            self.behind.entry(id).or_default().push(incoming);
            return;
        }
        let result = match found {
            Err(Errno::ENOENT) => {
                let lease = self.leases.grant(incoming.frame.client, parent, bits::UPDATE, 0);
                let answer = Answer { body: lease.to_vec(), ..Answer::error(Errno::ENOENT) };
                Ok(answer)
            }
            Err(errno) => Err(errno),
            Ok(fid) => self.entry_found(&incoming, parent, fid),
        };
        self.answer_result(&incoming, result);
    }

    fn entry_found(&mut self, incoming: &Incoming, parent: Fid, fid: Fid) -> Result<Answer, Errno> {
        let reply = EntryReply {
            attributes: self.state.attributes(fid)?,
            lease: self.grant_readable(incoming, fid),
            parent_lease: self.leases.grant(incoming.frame.client, parent, 0, 0),
            parent: None,
            shared: self.opens.is_shared(incoming.frame.client, fid),
            created: false,
        };
        let layout = self.layout_payload(fid);
        Ok(Answer::body(&reply).with_payload(&layout, incoming.frame.reply_room()))
    }

    pub(crate) fn get_attributes(&mut self, incoming: &Incoming) {
        let Some(GetAttributes { fid }) = self.body_of(incoming) else { return };
        let result = self.attributes_with_lease(incoming, fid);
        self.answer_result(incoming, result);
    }

    pub(crate) fn read_directory(&mut self, incoming: &Incoming) {
        let Some(request) = self.body_of::<ReadDirectory>(incoming) else { return };
        let result = self.directory_page(incoming, &request);
        self.answer_result(incoming, result);
    }

    fn directory_page(
        &mut self,
        incoming: &Incoming,
        request: &ReadDirectory,
    ) -> Result<Answer, Errno> {
        let room = incoming.frame.reply_room();
        let most = (room / ENTRY_BYTES_MIN).clamp(1, self.limits.page_entries_max);
        let page = self.state.read_directory(request.fid, request.cookie, most)?;
        let mut payload = Vec::new();
        let mut count = 0;
        let mut end = page.end;
        for mut entry in page.entries {
            if request.plus {
                self.add_attributes(incoming, &mut entry);
            }
            let before = payload.len();
            entry.encode(&mut Encoder(&mut payload));
            if payload.len() > room {
                payload.truncate(before);
                end = false;
                break;
            }
            count += 1;
        }
        if count == 0 && !end {
            return Err(Errno::EINVAL);
        }
        let lease = self.grant_readable(incoming, request.fid);
        let reply = ReadDirectoryReply { lease, parent: page.parent, count, end };
        Ok(Answer { payload, ..Answer::body(&reply) })
    }

    fn add_attributes(&mut self, incoming: &Incoming, entry: &mut DirectoryEntry) {
        if let Ok(attributes) = self.state.attributes(entry.fid) {
            let lease = self.leases.grant(incoming.frame.client, entry.fid, READABLE, 0);
            entry.plus = Some((attributes, lease));
        }
    }

    pub(crate) fn read_link(&mut self, incoming: &Incoming) {
        let Some(ReadLink { fid }) = self.body_of(incoming) else { return };
        let target = self.state.read_link(fid).map(<[u8]>::to_vec);
        self.answer_bytes(incoming, target);
    }

    pub(crate) fn get_xattr(&mut self, incoming: &Incoming) {
        let Some(XattrName { fid, name }) = self.body_of(incoming) else { return };
        let value = self.state.xattr(fid, &name).map(<[u8]>::to_vec);
        self.answer_bytes(incoming, value);
    }

    pub(crate) fn list_xattr(&mut self, incoming: &Incoming) {
        let Some(ListXattr { fid }) = self.body_of(incoming) else { return };
        let names = self.state.xattr_names(fid);
        self.answer_bytes(incoming, names);
    }

    /// Answers with a payload that must fit.
    fn answer_bytes(&mut self, incoming: &Incoming, bytes: Result<Vec<u8>, Errno>) {
        let result = bytes.and_then(|payload| {
            if payload.len() > incoming.frame.reply_room() {
                return Err(Errno::ERANGE);
            }
            Ok(Answer { payload, ..Answer::empty() })
        });
        self.answer_result(incoming, result);
    }

    pub(crate) fn filesystem_statistics(&mut self, incoming: &Incoming) {
        let Some(FilesystemStatistics { fid }) = self.body_of(incoming) else { return };
        let result = match self.state.filesystem(fid) {
            Some(info) => {
                let others = self.state.inodes() - info.inodes;
                Ok(Answer::body(&FilesystemStatisticsReply {
                    inodes_used: info.inodes,
                    inodes_max: self.state.limits().inodes_max - others,
                }))
            }
            None => Err(Errno::ESTALE),
        };
        self.answer_result(incoming, result);
    }
}
