//! A full metadata zone refuses what adds to it, starts again, and can be emptied and filled again.

use sheen_types::{Errno, Fid, FileKind};
use sheen_wire::{
    Field, Opcode,
    metadata::{
        Close, EntryReply, FilesystemStatistics, FilesystemStatisticsReply, Link, Open, SetXattr,
        Unlink, XattrName,
    },
};

use super::{
    test::{lookup, rename, status, unlink},
    test_support::{CREDENTIALS, Client, World, name, nothing_held},
};

pub(crate) const FULL: i32 = -Errno::ENOSPC.0;

/// Starts the server again, with its client.
pub(crate) fn restart(world: &mut World, client: &mut Client) {
    world.restart();
    client.reconnect(world);
    assert!(client.resumed);
    assert_eq!(client.reassert(world, &nothing_held()), 0);
}

/// Creates files until there is no room; returns how many there are.
pub(crate) fn fill(world: &mut World, client: &mut Client, file: impl Fn(u32) -> String) -> u32 {
    for number in 0..100_000 {
        let request = client.create_request(Fid::ROOT, &file(number));
        match status(client, world, Opcode::Create, &request) {
            0 => {}
            refused => {
                assert_eq!(refused, FULL);
                return number;
            }
        }
    }
    panic!("it is never full")
}

/// Creates files eight at a time, as many as there are reply slots, until there is no room; returns how many there are. So
/// the state grows fast by the bytes of the log.
fn fill_in_batches(world: &mut World, client: &mut Client) -> u32 {
    for first in (0..100_000).step_by(8) {
        let batch: Vec<_> = (0..8)
            .map(|tag| {
                let file = format!("f{}", first + u32::from(tag));
                let request = client.create_request(Fid::ROOT, &file).to_vec();
                client.send(world, Opcode::Create, tag, &request, &[])
            })
            .collect();
        world.run();
        let made = batch.iter().take_while(|sent| sent.status(world) == 0).count();
        if made < batch.len() {
            assert!(batch[made..].iter().all(|sent| sent.status(world) == FULL));
            return first + u32::try_from(made).unwrap();
        }
    }
    panic!("it is never full")
}

pub(crate) fn remove(world: &mut World, client: &mut Client, parent: Fid, file: &str, dir: bool) {
    let request = Unlink { parent, name: name(file), directory: dir, credentials: CREDENTIALS };
    assert_eq!(status(client, world, Opcode::Unlink, &request), 0, "{file}");
}

fn inodes(world: &mut World, client: &mut Client) -> u64 {
    let statistics = FilesystemStatistics { fid: Fid::ROOT };
    let reply: FilesystemStatisticsReply =
        client.call(world, Opcode::FilesystemStatistics, &statistics).body();
    reply.inodes_used
}

pub(crate) fn set_xattr(
    world: &mut World,
    client: &mut Client,
    fid: Fid,
    text: &str,
    value: &[u8],
) -> i32 {
    let set = SetXattr { fid, name: name(text).into(), flags: 0, kill_sgid: false };
    let sent = client.send(world, Opcode::SetXattr, 0, &set.to_vec(), value);
    world.run();
    sent.status(world)
}

#[test]
fn a_full_zone_is_emptied_by_single_deletes_with_restarts_between_and_filled_as_far_again() {
    let mut world = World::new();
    let mut client = world.mount(1);
    let long = |number: u32| format!("{number:0>250}");
    let files = fill(&mut world, &mut client, long);
    assert!((2500..4000).contains(&files), "{files}");
    for number in 0..files {
        if number.is_multiple_of(200) {
            restart(&mut world, &mut client);
        }
        assert_eq!(status(&mut client, &mut world, Opcode::Unlink, &unlink(&long(number))), 0);
    }
    restart(&mut world, &mut client);
    // What lingered goes when its clients had time to come back.
    world.pass(std::time::Duration::from_secs(6));
    assert_eq!(inodes(&mut world, &mut client), 1);
    assert_eq!(fill(&mut world, &mut client, long), files);
    restart(&mut world, &mut client);
    assert_eq!(status(&mut client, &mut world, Opcode::Lookup, &lookup(&long(files - 1))), 0);
}

#[test]
fn a_zone_filled_by_many_at_a_time_is_emptied_by_single_deletes_and_filled_as_far_again() {
    let mut world = World::new();
    let mut client = world.mount(1);
    let files = fill_in_batches(&mut world, &mut client);
    assert!((5000..7000).contains(&files), "{files}");
    for number in 0..files {
        if number.is_multiple_of(500) {
            restart(&mut world, &mut client);
        }
        let unlink = unlink(&format!("f{number}"));
        assert_eq!(status(&mut client, &mut world, Opcode::Unlink, &unlink), 0, "{number}");
    }
    restart(&mut world, &mut client);
    // What lingered goes when its clients had time to come back.
    world.pass(std::time::Duration::from_secs(6));
    assert_eq!(inodes(&mut world, &mut client), 1);
    assert_eq!(fill_in_batches(&mut world, &mut client), files);
}

/// A zone full of what takes most room and least log, and some of everything else.
struct Mixture {
    files: Vec<(Fid, String)>,
    dirs: Vec<Fid>,
    links: Vec<String>,
    /// Open, their names gone.
    unlinked: Vec<Fid>,
}

impl Mixture {
    fn fill(world: &mut World, client: &mut Client) -> Self {
        let mut made =
            Self { files: Vec::new(), dirs: Vec::new(), links: Vec::new(), unlinked: Vec::new() };
        for number in 0..10_000_u32 {
            if let Err(refused) = made.add(world, client, number) {
                assert_eq!(refused, FULL);
                return made;
            }
        }
        panic!("it is never full")
    }

    fn add(&mut self, world: &mut World, client: &mut Client, number: u32) -> Result<(), i32> {
        let done = |status: i32| if status == 0 { Ok(()) } else { Err(status) };
        let file = format!("file {number}");
        let request = client.create_request(Fid::ROOT, &file);
        let fid = request.fid;
        match number % 6 {
            0 => {
                let mut request = request;
                request.kind = FileKind::Directory;
                done(status(client, world, Opcode::Create, &request))?;
                self.dirs.push(fid);
                let within = client.create_request(fid, "within");
                return done(status(client, world, Opcode::Create, &within));
            }
            1 => {
                done(status(client, world, Opcode::Create, &request))?;
                self.unlinked.push(fid);
                let open = Open { fid, write: true, append: false };
                done(status(client, world, Opcode::Open, &open))?;
                return done(status(client, world, Opcode::Unlink, &unlink(&file)));
            }
            _ => {}
        }
        done(status(client, world, Opcode::Create, &request))?;
        self.files.push((fid, file));
        match number % 6 {
            2 => {
                let link = Link { fid, parent: Fid::ROOT, name: name(&format!("link {number}")) };
                done(status(client, world, Opcode::Link, &link))?;
                self.links.push(format!("link {number}"));
                Ok(())
            }
            3 | 4 => done(set_xattr(world, client, fid, "user.large", &[7; 50_000])),
            _ => Ok(()),
        }
    }

    /// Takes everything away, one thing at a time, the server dying after each.
    fn empty(self, world: &mut World, client: &mut Client) {
        for (fid, file) in self.files {
            let large = XattrName { fid, name: name("user.large").into() };
            let removed = status(client, world, Opcode::RemoveXattr, &large);
            assert!([0, -Errno::ENODATA.0].contains(&removed), "{removed}");
            remove(world, client, Fid::ROOT, &file, false);
            restart(world, client);
        }
        for fid in &self.dirs {
            let within = client.call(world, Opcode::Lookup, &lookup_in(*fid, "within"));
            if within.frame.status == 0 {
                remove(world, client, *fid, "within", false);
            }
            restart(world, client);
        }
        for (number, _) in (0_u32..).step_by(6).zip(&self.dirs) {
            remove(world, client, Fid::ROOT, &format!("file {number}"), true);
        }
        for link in self.links {
            remove(world, client, Fid::ROOT, &link, false);
            restart(world, client);
        }
        // Nobody asserted that it has the unlinked ones open.
        let reconnect = super::MdtTimes::default().reconnect;
        world.pass(reconnect + std::time::Duration::from_secs(1));
    }
}

fn lookup_in(parent: Fid, text: &str) -> sheen_wire::metadata::Lookup {
    sheen_wire::metadata::Lookup { parent, name: Some(name(text)) }
}

#[test]
fn a_zone_full_of_everything_is_emptied_with_a_death_after_each_delete() {
    let mut world = World::new();
    let mut client = world.mount(1);
    let made = Mixture::fill(&mut world, &mut client);
    let (files, unlinked) = (made.files.len(), made.unlinked.len());
    assert!(files > 40 && unlinked > 10, "{files} {unlinked}");
    for &fid in &made.unlinked[..3] {
        let close = Close { fid, write_only: false };
        assert_eq!(status(&mut client, &mut world, Opcode::Close, &close), 0);
    }
    made.empty(&mut world, &mut client);
    let left = inodes(&mut world, &mut client);
    assert!(left <= 2, "{left}: the root, and a file whose name could not be taken");
    let again = Mixture::fill(&mut world, &mut client);
    assert!(again.files.len().abs_diff(files) <= 1, "{} then {files}", again.files.len());
}

#[test]
fn a_full_zone_takes_in_clients_and_what_adds_nothing() {
    let mut world = World::new();
    let mut client = world.mount(1);
    let mut fids = Vec::new();
    let refused = loop {
        let file = format!("file {}", fids.len());
        let request = client.create_request(Fid::ROOT, &file);
        let made = client.call(&mut world, Opcode::Create, &request);
        if made.frame.status != 0 {
            break made.frame.status;
        }
        fids.push(made.body::<EntryReply>().attributes.fid);
        let fid = fids[fids.len() - 1];
        let status = set_xattr(&mut world, &mut client, fid, "user.a", &[1; 60_000]);
        if status != 0 {
            break status;
        }
    };
    assert_eq!(refused, FULL);
    fill(&mut world, &mut client, |number| format!("{number:0>250}"));
    for number in 2..12 {
        let mut other = world.mount(number);
        assert_eq!(status(&mut other, &mut world, Opcode::Lookup, &lookup("file 0")), 0);
        let large = client.create_request(Fid::ROOT, &"x".repeat(250));
        assert_eq!(status(&mut other, &mut world, Opcode::Create, &large), FULL);
        assert_eq!(other.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
    }
    assert_eq!(set_xattr(&mut world, &mut client, fids[0], "user.a", &[2; 60_000]), 0, "as large");
    assert_eq!(status(&mut client, &mut world, Opcode::Rename, &rename("file 0", "f")), 0);
    let opens = sheen_wire::metadata::Create {
        exclusive: false,
        ..client.create_request(Fid::ROOT, "file 1")
    };
    assert_eq!(status(&mut client, &mut world, Opcode::Create, &opens), 0, "it is there");
    let link = |number: u32| {
        let name = name(&format!("{number:y>250}"));
        Link { fid: fids[2], parent: Fid::ROOT, name }
    };
    // A name takes less than a file and its name: one may still fit.
    let mut links =
        (0..3).map(|number| status(&mut client, &mut world, Opcode::Link, &link(number)));
    assert!(links.any(|status| status == FULL));
    drop(links);
    remove(&mut world, &mut client, Fid::ROOT, "file 1", false);
    assert_eq!(status(&mut client, &mut world, Opcode::Link, &link(9)), 0);
}

#[test]
fn a_state_that_grows_while_its_snapshot_is_written_outgrows_neither_area_nor_log() {
    let mut world = World::new();
    world.limits.snapshot_bytes_per_turn = 1;
    world.limits.snapshot_ring_part = 8;
    world.restart();
    let mut client = world.mount(1);
    let mut refused = 0;
    let mut made = 0_u32;
    while refused == 0 {
        // Eight at a time, as many as there are reply slots.
        let batch: Vec<_> = (0..8)
            .map(|tag| {
                let request = client.create_request(Fid::ROOT, &format!("{:0>250}", made + tag));
                let tag = u16::try_from(tag).unwrap();
                client.send(&world, Opcode::Create, tag, &request.to_vec(), &[])
            })
            .collect();
        // The snapshot is given a piece a turn, requests come in every turn.
        world.run_turns(3);
        while batch.iter().any(|sent| sent.reply(&world).is_none()) {
            world.run_turns(1);
        }
        for sent in batch {
            match sent.status(&world) {
                0 => made += 1,
                status => {
                    assert_eq!(status, FULL);
                    refused += 1;
                }
            }
        }
    }
    assert!((2500..4000).contains(&made), "{made}");
    assert!(world.stats.snapshots.get() > 3);
    restart(&mut world, &mut client);
    assert_eq!(inodes(&mut world, &mut client), u64::from(made) + 1);
    remove(&mut world, &mut client, Fid::ROOT, &format!("{:0>250}", 7), false);
}
