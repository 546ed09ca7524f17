//! Many wait for what many hold: what that costs, and that everybody goes on.

use std::time::Duration;

use sheen_types::{Fid, FileKind};
use sheen_wire::{
    Field, Opcode,
    lease::{LeaseCancel, LeaseRevoke, bits},
    metadata::{Create, EntryReply, GetAttributes, Rename, SequenceGrantReply, set},
};

use super::{
    MdtLimits,
    core::Mdt,
    planning::PLANS_PER_TURN,
    test::rename,
    test_support::{Client, Sent, World, name},
    waits_test::set_attributes,
};

/// Clients that all hold leases on the root directory, as after they listed it.
fn crowd(count: u32) -> (World, Vec<Client>) {
    let mut world = World::with_sessions(count + 8);
    let mut clients: Vec<Client> = (1..=count).map(|number| world.client(b"fs", number)).collect();
    let sent: Vec<Sent> =
        clients.iter_mut().map(|client| client.send_connect(&mut world)).collect();
    world.run();
    for (client, sent) in clients.iter_mut().zip(sent) {
        client.connected(&world, sent);
    }
    grant_sequences(&mut world, &mut clients);
    for client in &mut clients {
        let list = GetAttributes { fid: Fid::ROOT }.to_vec();
        client.send(&world, Opcode::GetAttributes, 0, &list, &[]);
    }
    world.run();
    (world, clients)
}

fn grant_sequences(world: &mut World, clients: &mut [Client]) {
    let grant = |client: &mut Client| client.send(world, Opcode::SequenceGrant, 0, &[], &[]);
    let sent: Vec<Sent> = clients.iter_mut().map(grant).collect();
    world.run();
    for (client, sent) in clients.iter_mut().zip(sent) {
        client.sequence = sent.reply(world).unwrap().body::<SequenceGrantReply>().sequence;
    }
}

const fn core(world: &World) -> &Mdt {
    &world.service.as_ref().unwrap().core
}

/// Plans of changes, and leases looked at one by one.
fn work(world: &World) -> (u64, u64) {
    (world.stats.plans.get(), core(world).leases.looks())
}

/// Sends a create in the root directory for each client.
fn send_creates(world: &mut World, clients: &mut [Client]) -> Vec<Sent> {
    let mut sent = Vec::new();
    for client in clients {
        let file = format!("of {}", client.client);
        let request = client.create_request(Fid::ROOT, &file).to_vec();
        sent.push(client.send(world, Opcode::Create, 0, &request, &[]));
    }
    world.run();
    sent
}

/// Sends the answer to every revoke that came; returns how many those were.
fn send_answers(world: &World, clients: &mut [Client]) -> usize {
    let mut count = 0;
    for client in clients {
        while let Some(callback) = client.callback(world) {
            let LeaseRevoke { fid, bits, to_read, sequence } =
                LeaseRevoke::from_bytes(&callback.body).unwrap();
            let cancel = LeaseCancel { fid, bits, to_read, sequence, learned: None };
            client.send(world, Opcode::LeaseCancel, 0, &cancel.to_vec(), &[]);
            count += 1;
        }
    }
    count
}

#[test]
fn creates_in_a_directory_that_many_listed_cost_as_many_steps_as_there_are_of_both() {
    const WAITERS: usize = 60;
    const HOLDERS: usize = 90;
    let (mut world, mut clients) = crowd(u32::try_from(HOLDERS).unwrap());
    let before = work(&world);
    let creates = send_creates(&mut world, &mut clients[..WAITERS]);
    assert!(creates.iter().all(|sent| sent.reply(&world).is_none()));
    assert_eq!(send_answers(&world, &mut clients), HOLDERS);
    world.run();
    assert!(creates.iter().all(|sent| sent.status(&world) == 0));
    let after = work(&world);
    let (plans, looks) = (after.0 - before.0, after.1 - before.1);
    assert!(plans <= 2 * WAITERS as u64, "{plans} plans");
    assert!(looks <= 4 * (WAITERS + HOLDERS) as u64, "{looks} looks");
}

/// Sends the answer to every revoke that came to a client on an inode, of these bits only.
fn send_answer(world: &World, client: &mut Client, (inode, those): (Fid, u32)) {
    while let Some(callback) = client.callback(world) {
        let LeaseRevoke { fid, bits, to_read, sequence } =
            LeaseRevoke::from_bytes(&callback.body).unwrap();
        if fid == inode && bits & those != 0 {
            let cancel = LeaseCancel { fid, bits: bits & those, to_read, sequence, learned: None };
            client.send(world, Opcode::LeaseCancel, 0, &cancel.to_vec(), &[]);
        }
    }
}

/// Gives back these bits of an inode, asked or not.
fn give_back(world: &mut World, client: &mut Client, fid: Fid, bits: u32) {
    let sequence = u64::MAX;
    let cancel = LeaseCancel { fid, bits, to_read: false, sequence, learned: None };
    assert_eq!(client.call(world, Opcode::LeaseCancel, &cancel).frame.status, 0);
}

fn list(world: &mut World, client: &mut Client, fid: Fid) {
    assert_eq!(client.call(world, Opcode::GetAttributes, &GetAttributes { fid }).frame.status, 0);
}

#[test]
fn a_waiter_goes_on_when_nothing_is_in_its_own_way_whatever_those_before_it_wait_for() {
    let (mut world, mut clients) = crowd(6);
    let [a, b, others @ ..] = &mut clients[..] else { unreachable!() };
    let chmod = set_attributes(Fid::ROOT, set::MODE).to_vec();
    let first = a.send(&world, Opcode::SetAttributes, 0, &chmod, &[]);
    world.run();
    let creates = send_creates(&mut world, std::slice::from_mut(b));
    // The first waits for two bits, the second for one of them.
    for other in &mut *others {
        send_answer(&world, other, (Fid::ROOT, bits::UPDATE));
    }
    send_answer(&world, a, (Fid::ROOT, bits::UPDATE));
    world.run();
    core(&world).check_waits();
    assert_eq!(creates[0].status(&world), 0);
    assert!(first.reply(&world).is_none());
    give_back(&mut world, b, Fid::ROOT, bits::ALL);
    for other in others {
        assert!(first.reply(&world).is_none());
        give_back(&mut world, other, Fid::ROOT, bits::PERM);
    }
    assert_eq!(first.status(&world), 0, "its own client's leases are not in its way");
}

#[test]
fn the_last_holder_goes_on_though_others_wait_for_it() {
    let (mut world, mut clients) = crowd(5);
    let creates = send_creates(&mut world, &mut clients[..3]);
    for client in [0, 2, 3, 4] {
        assert!(creates.iter().all(|sent| sent.reply(&world).is_none()));
        give_back(&mut world, &mut clients[client], Fid::ROOT, bits::UPDATE);
        core(&world).check_waits();
    }
    assert!(creates[0].reply(&world).is_none() && creates[2].reply(&world).is_none());
    assert_eq!(creates[1].status(&world), 0);
    give_back(&mut world, &mut clients[1], Fid::ROOT, bits::UPDATE);
    assert!(creates.iter().all(|sent| sent.status(&world) == 0));
}

#[test]
fn changes_of_several_directories_wait_for_their_own() {
    let (mut world, mut clients) = crowd(8);
    let mut made = Vec::new();
    for directory in ["one", "two"] {
        let request = clients[0].create_request(Fid::ROOT, directory);
        let request = Create { kind: FileKind::Directory, permissions: 0o777, ..request }.to_vec();
        let sent = clients[0].send(&world, Opcode::Create, 0, &request, &[]);
        world.run();
        send_answers(&world, &mut clients);
        world.run();
        made.push(sent.reply(&world).unwrap().body::<EntryReply>().attributes.fid);
    }
    let [one, two] = made[..] else { unreachable!() };
    let file = clients[0].create_request(one, "file");
    assert_eq!(clients[0].call(&mut world, Opcode::Create, &file).frame.status, 0);
    // The last two hold both directories, the others one of them.
    for (number, client) in clients.iter_mut().enumerate() {
        for (which, fid) in [(0, one), (1, two)] {
            if number >= 6 || number % 2 == which {
                list(&mut world, client, fid);
            }
        }
    }
    let (from_name, to_name) = (name("file"), name("file"));
    let rename =
        Rename { from_parent: one, from_name, to_parent: two, to_name, ..rename("file", "file") };
    let rename = clients[0].send(&world, Opcode::Rename, 0, &rename.to_vec(), &[]);
    world.run();
    let mut create = |client: usize, parent, file: &str| {
        let request = clients[client].create_request(parent, file).to_vec();
        clients[client].send(&world, Opcode::Create, 1, &request, &[])
    };
    let in_one = create(1, one, "other");
    let in_two = create(2, two, "other");
    world.run();
    for client in &mut clients {
        send_answer(&world, client, (two, bits::ALL));
    }
    world.run();
    core(&world).check_waits();
    assert_eq!(in_two.status(&world), 0, "it came after the rename, which waits for the other one");
    assert!(rename.reply(&world).is_none() && in_one.reply(&world).is_none());
    let before = work(&world);
    for client in &mut clients {
        give_back(&mut world, client, one, bits::ALL);
        give_back(&mut world, client, two, bits::ALL);
    }
    assert_eq!(rename.status(&world), 0);
    assert_eq!(in_one.status(&world), 0);
    assert!(work(&world).0 - before.0 <= 4, "{:?} {:?}", before, work(&world));
    core(&world).check_waits();
}

#[test]
fn all_go_on_when_the_last_holder_is_evicted() {
    let (mut world, mut clients) = crowd(5);
    let creates = send_creates(&mut world, &mut clients[..4]);
    send_answers(&world, &mut clients[..4]);
    world.run();
    assert!(creates.iter().all(|sent| sent.reply(&world).is_none()));
    world.lose_connection(clients[4].connection);
    world.pass(Duration::from_secs(4));
    assert!(creates.iter().all(|sent| sent.reply(&world).is_none()));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.stats.evictions.get(), 1);
    assert!(creates.iter().all(|sent| sent.status(&world) == 0));
    core(&world).check_waits();
}

#[test]
fn a_waiter_whose_session_ends_is_in_nobodys_way() {
    let (mut world, mut clients) = crowd(6);
    let creates = send_creates(&mut world, &mut clients[..3]);
    assert_eq!(clients[0].call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
    core(&world).check_waits();
    assert!(creates[1..].iter().all(|sent| sent.reply(&world).is_none()));
    send_answers(&world, &mut clients[1..]);
    world.run();
    assert!(creates[1..].iter().all(|sent| sent.status(&world) == 0));
    assert_eq!(core(&world).waiting.len(), 0);
}

#[test]
fn requests_of_others_go_between_many_that_are_woken_at_once() {
    const EACH: u16 = 8;
    // A reply that carried something is an event when it was taken: none is left for the next turn.
    let limits = MdtLimits { events_per_turn: 4096, ..MdtLimits::default() };
    let state_limits = sheen_meta::Limits { sessions_max: 400, ..sheen_meta::Limits::default() };
    let mut world = World::with(limits, state_limits, 1);
    let mut holder = world.mount(1);
    list(&mut world, &mut holder, Fid::ROOT);
    let mut clients: Vec<Client> = (2..=200).map(|number| world.client(b"fs", number)).collect();
    let mut creates = Vec::new();
    clients.iter_mut().for_each(|client| client.reconnect(&mut world));
    grant_sequences(&mut world, &mut clients);
    for client in &mut clients {
        for tag in 0..EACH {
            let file = format!("{tag} of {}", client.client);
            let request = client.create_request(Fid::ROOT, &file).to_vec();
            creates.push(client.send(&world, Opcode::Create, tag, &request, &[]));
        }
    }
    world.run();
    assert!(creates.iter().all(|sent| sent.reply(&world).is_none()));
    send_answers(&world, std::slice::from_mut(&mut holder));
    let mut turns = 0;
    while !creates.iter().all(|sent| sent.reply(&world).is_some()) {
        let before = world.stats.plans.get();
        let ping = holder.send(
            &world,
            Opcode::GetAttributes,
            0,
            &GetAttributes { fid: Fid::ROOT }.to_vec(),
            &[],
        );
        world.run_turns(1);
        core(&world).check_waits();
        assert!(ping.reply(&world).is_some(), "not answered in turn {turns}");
        let plans = world.stats.plans.get() - before;
        assert!(plans <= PLANS_PER_TURN as u64, "{plans} in one turn");
        turns += 1;
        assert!(turns < 100);
    }
    assert!(turns > creates.len() / PLANS_PER_TURN);
    assert!(creates.iter().all(|sent| sent.status(&world) == 0));
}
