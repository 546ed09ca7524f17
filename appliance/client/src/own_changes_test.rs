//! A client's own changes of names: what their replies tell of the directory is known without a question.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::Attributes;
use sheen_wire::{Field, Opcode, lease::bits, metadata::GetAttributes};

use crate::{
    Client, Inode,
    fake::{FILE, Fake, new_directory},
    scenarios::start,
};

struct World {
    fake: Fake,
    client: Arc<Client>,
    directory: Arc<Inode>,
    other: Arc<Inode>,
}

/// Two directories this client made, with their attributes cached.
fn world() -> World {
    let (fake, client) = start();
    let root = client.inode(client.root());
    let make = |name| {
        let made = client.create(&root, &new_directory(name), None, &Cancel::new());
        made.unwrap().found.inode
    };
    let (directory, other) = (make(b"directory"), make(b"other"));
    World { fake, client, directory, other }
}

impl World {
    /// Attributes of a directory, and whether the server was asked for them.
    fn look(&self, directory: &Arc<Inode>) -> (Attributes, bool) {
        let before = self.fake.sent(Opcode::GetAttributes).len();
        let observed = self.client.attributes(directory, &Cancel::new()).unwrap();
        (observed.attributes, self.fake.sent(Opcode::GetAttributes).len() > before)
    }

    /// What the directory is since the last change, of which its reply told.
    #[track_caller]
    fn is_told(&self, directory: &Arc<Inode>) -> u64 {
        let (now, asked) = self.look(directory);
        assert!(!asked, "the reply told it");
        now.size
    }

    fn create(&self, name: &[u8]) {
        let made = new_directory(name);
        self.client.create(&self.directory, &made, None, &Cancel::new()).unwrap();
    }

    fn rename(&self, to: &Arc<Inode>) {
        let (from, to): (_, (_, &[u8])) = ((&self.directory, &b"a"[..]), (to, b"b"));
        self.client.rename(from, to, 0, (0, 0), &Cancel::new()).unwrap();
    }

    fn unlink(&self) {
        self.client.unlink(&self.directory, b"a", false, (0, 0), &Cancel::new()).unwrap();
    }
}

#[test]
fn after_own_changes_nobody_is_asked_what_the_directory_is_now() {
    let world = world();
    let World { fake, client, directory, other } = &world;
    let mut sizes = vec![world.is_told(directory)];
    world.create(b"a");
    sizes.push(world.is_told(directory));
    client.link(&client.inode(FILE), directory, b"b", &Cancel::new()).unwrap();
    sizes.push(world.is_told(directory));
    world.rename(directory);
    sizes.push(world.is_told(directory));
    world.rename(other);
    sizes.push(world.is_told(directory));
    world.is_told(other);
    world.unlink();
    sizes.push(world.is_told(directory));
    assert!(sizes.is_sorted_by(|a, b| a < b), "each change shows: {sizes:?}");
    let asked = fake.sent(Opcode::GetAttributes).into_iter();
    let asked = asked.map(|sent| GetAttributes::from_bytes(&sent.body).unwrap().fid);
    assert!(asked.eq([FILE]), "only the layout of what was linked");
    client.disconnect();
}

#[test]
fn what_a_reply_told_goes_when_another_client_changes_the_directory() {
    let world = world();
    world.create(b"a");
    world.is_told(&world.directory);
    world.fake.revoke(world.directory.fid, bits::UPDATE, false);
    world.fake.wait_until("the revoke is answered", |state| {
        state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
    });
    assert!(world.look(&world.directory).1, "asked");
    world.client.disconnect();
}

#[test]
fn what_a_reply_tells_is_not_kept_without_a_lease_on_it() {
    let world = world();
    world.fake.change(|state| state.directory_grants = Some(bits::LOOKUP | bits::PERM));
    world.create(b"a");
    assert!(world.look(&world.directory).1, "another waits to change the directory");
    world.fake.change(|state| state.directory_grants = None);
    world.unlink();
    world.is_told(&world.directory);
    world.client.disconnect();
}

#[test]
fn a_reply_that_tells_nothing_leaves_nothing_known() {
    let world = world();
    world.fake.change(|state| state.tells_no_directories = true);
    let changes: [&dyn Fn(); 3] =
        [&|| world.create(b"a"), &|| world.rename(&world.directory), &|| world.unlink()];
    for change in changes {
        world.look(&world.directory);
        assert!(!world.look(&world.directory).1, "known before");
        change();
        assert!(world.look(&world.directory).1, "asked");
    }
    world.client.disconnect();
}

#[test]
fn a_reply_overtaken_by_another_own_change_tells_what_is_no_more() {
    let world = world();
    world.fake.change(|state| state.delay = Some(Opcode::Create));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| world.create(b"a"));
        world.fake.wait_until("the create is carried out", |state| state.delayed > 0);
        // Its reply tells nothing: what the directory is after it has to be asked for.
        world.fake.change(|state| state.tells_no_directories = true);
        world.unlink();
        world.fake.change(|state| state.delay = None);
        slow.join().unwrap();
    });
    assert!(world.look(&world.directory).1, "asked");
    world.client.disconnect();
}

#[test]
fn an_answer_overtaken_by_an_own_change_is_not_believed() {
    let world = world();
    let directory = &world.directory;
    let look = || world.client.attributes(directory, &Cancel::new()).unwrap().caching;
    let changes: [&dyn Fn(); 3] =
        [&|| world.create(b"a"), &|| world.rename(&world.other), &|| world.unlink()];
    for change in changes {
        let before = look();
        assert!(directory.attributes_window(before, 1).is_some());
        change();
        assert!(directory.attributes_window(before, 1).is_none(), "it is older than the change");
        assert!(directory.attributes_window(look(), 1).is_some());
    }
    let made = world.client.create(directory, &new_directory(b"b"), None, &Cancel::new());
    let made = made.unwrap().found;
    assert!(made.inode.attributes_window(made.observed.caching, 1).is_some(), "its own answer");
    world.client.disconnect();
}

#[test]
fn an_answer_another_thread_may_not_have_taken_in_is_outdated_once() {
    let world = world();
    let directory = &world.directory;
    let tell = |thread| {
        let caching = world.client.attributes(directory, &Cancel::new()).unwrap().caching;
        drop(directory.attributes_window(caching, thread).unwrap());
    };
    let ends = |thread| directory.told_others(thread);
    assert!(!ends(1), "nobody was told");
    tell(1);
    assert!(!ends(1), "who asks for a change has taken in what it was told");
    tell(1);
    tell(1);
    assert!(ends(2));
    assert!(!ends(2), "it is outdated");
    tell(1);
    tell(2);
    assert!(ends(1) && !ends(1));
    tell(0);
    assert!(ends(0), "no thread that is known");
    world.client.disconnect();
}
