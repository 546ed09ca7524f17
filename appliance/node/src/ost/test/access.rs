//! What sessions may do with objects: file systems and rights against every request, as frames.

use std::sync::Arc;

use sheen_types::{Compression, Errno, Fid, Timespec};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    object::{
        ObjectAllocate, ObjectGlimpse, ObjectPunch, ObjectRead, ObjectRepack, ObjectSeek,
        ObjectStatistics, ObjectSync, ObjectTruncate, PunchMode, SeekTarget,
    },
};

use super::rig::{OST, Rig, admitted, object, write_body};
use crate::{
    mdt::gateway::{AdmittedSession, ObjectAccess, OstJob},
    ost::sessions::Refusal,
};

const OK: i32 = 0;
const EACCES: i32 = -Errno::EACCES.0;
const EROFS: i32 = -Errno::EROFS.0;
const EPERM: i32 = -Errno::EPERM.0;

/// What a request does to the object it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Changes,
    Reads,
    /// It names none.
    None,
}

fn class_of(opcode: Opcode) -> Class {
    match opcode {
        Opcode::ObjectWrite
        | Opcode::ObjectPunch
        | Opcode::ObjectTruncate
        | Opcode::ObjectAllocate
        | Opcode::ObjectRepack => Class::Changes,
        Opcode::ObjectRead | Opcode::ObjectGlimpse | Opcode::ObjectSeek => Class::Reads,
        _ => Class::None,
    }
}

/// An object of a file system.
fn of(filesystem: u32) -> Fid {
    Fid { ver: filesystem, ..object(1) }
}

/// The status of one request of each kind, the first of which writes.
fn ask_all(rig: &mut Rig, object: Fid) -> Vec<(Opcode, i32)> {
    let (ost, mtime, compression) = (OST, Timespec::ZERO, Compression::None);
    let (offset, length) = (0, 4096);
    let write = write_body(object, 0, false);
    let bodies = [
        (Opcode::ObjectWrite, write.to_vec()),
        (Opcode::ObjectRead, ObjectRead { ost, object, offset, length: 100 }.to_vec()),
        (
            Opcode::ObjectPunch,
            ObjectPunch {
                ost,
                object,
                offset: 8192,
                length,
                mode: PunchMode::Hole,
                extend: false,
                mtime,
            }
            .to_vec(),
        ),
        (Opcode::ObjectTruncate, ObjectTruncate { ost, object, size: 8192, mtime }.to_vec()),
        (
            Opcode::ObjectAllocate,
            ObjectAllocate { ost, object, offset, length, keep_size: true, mtime }.to_vec(),
        ),
        (
            Opcode::ObjectRepack,
            ObjectRepack { ost, object, offset, length: 4096, compression }.to_vec(),
        ),
        (Opcode::ObjectGlimpse, ObjectGlimpse { ost, objects: List(vec![object]) }.to_vec()),
        (Opcode::ObjectSeek, ObjectSeek { ost, object, offset, target: SeekTarget::Data }.to_vec()),
        (Opcode::ObjectSync, ObjectSync { ost, object }.to_vec()),
        (Opcode::ObjectStatistics, ObjectStatistics { ost }.to_vec()),
    ];
    let mut statuses = Vec::new();
    for (opcode, body) in bodies {
        let payload: &[u8] = if opcode == Opcode::ObjectWrite { &[7; 100] } else { &[] };
        let frame = rig.frame(opcode, payload, 1 << 16);
        let request = rig.send_frame(&frame, &body, payload);
        statuses.push((opcode, rig.wait(request).status()));
    }
    statuses
}

/// Has the session of the rig do this from now on.
fn give(rig: &mut Rig, objects: ObjectAccess) {
    rig.version = rig.version.next();
    let session = AdmittedSession { objects, ..admitted(rig.client) };
    let told = rig.ask(OstJob::Admit { version: rig.version, session });
    assert!(rig.wait_job(told));
}

#[track_caller]
fn check(rig: &mut Rig, object: Fid, (changes, reads, none): (i32, i32, i32)) {
    for (opcode, status) in ask_all(rig, object) {
        let expected = match class_of(opcode) {
            Class::Changes => changes,
            Class::Reads => reads,
            Class::None => none,
        };
        assert_eq!(status, expected, "{opcode:?} of {object}");
    }
}

#[test]
fn objects_are_for_sessions_of_their_file_system_alone() {
    let mut rig = Rig::new(4096);
    let access = ObjectAccess { filesystem: 1, read_only: false, unlabelled: true };
    check(&mut rig, of(1), (OK, OK, OK));
    check(&mut rig, of(2), (EACCES, EACCES, OK));
    check(&mut rig, of(0), (OK, OK, OK));
    assert_eq!(rig.service.stats().not_admitted[Refusal::Filesystem as usize].get(), 8);
    give(&mut rig, ObjectAccess { unlabelled: false, ..access });
    check(&mut rig, of(1), (OK, OK, OK));
    check(&mut rig, of(0), (EACCES, EACCES, OK));
    give(&mut rig, ObjectAccess { filesystem: 2, ..access });
    check(&mut rig, of(1), (EACCES, EACCES, OK));
    let payload = rig.read(of(2), 0, 100).payload;
    assert!(payload.iter().all(|&byte| byte == 0), "what was refused changed nothing");
    check(&mut rig, of(2), (OK, OK, OK));
    let mixed = ObjectGlimpse { ost: OST, objects: List(vec![of(2), of(1)]) };
    assert_eq!(rig.call(Opcode::ObjectGlimpse, &mixed, &[], 0).status(), EACCES);
}

#[test]
fn a_session_that_reads_only_changes_no_object() {
    let mut rig = Rig::new(4096);
    check(&mut rig, of(1), (OK, OK, OK));
    give(&mut rig, ObjectAccess { filesystem: 1, read_only: true, unlabelled: true });
    check(&mut rig, of(1), (EROFS, OK, OK));
    check(&mut rig, of(2), (EACCES, EACCES, OK));
    assert_eq!(rig.service.stats().not_admitted[Refusal::ReadOnly as usize].get(), 5);
    let written = rig.read(of(1), 0, 100);
    assert_eq!(written.payload, [7; 100], "what was there is there");
}

#[test]
fn a_session_without_objects_has_none_and_nobody_destroys() {
    let mut rig = Rig::new(4096);
    give(&mut rig, ObjectAccess::NONE);
    for filesystem in [0, 1, u32::MAX] {
        check(&mut rig, of(filesystem), (EACCES, EACCES, EACCES));
    }
    let ping = rig.call(Opcode::Ping, &[0_u8; 0], &[], 0).status();
    assert_eq!(ping, OK);
    let frame = rig.frame(Opcode::ObjectDestroy, &[], 0);
    let request = rig.send_frame(&frame, &[], &[]);
    assert_eq!(rig.wait(request).status(), EPERM);
}

/// What the list says counts for connections that were attached before.
#[test]
fn a_list_told_whole_changes_what_an_attached_session_may_do() {
    let mut rig = Rig::new(4096);
    give(&mut rig, ObjectAccess { filesystem: 3, read_only: false, unlabelled: false });
    check(&mut rig, of(3), (OK, OK, OK));
    check(&mut rig, of(1), (EACCES, EACCES, OK));
    rig.version = rig.version.next();
    let mut list = rig.list(&[rig.client]);
    list.sessions[0].objects = ObjectAccess { filesystem: 3, read_only: true, unlabelled: false };
    let told = rig.ask(OstJob::Sessions(Arc::new(list)));
    assert!(rig.wait_job(told));
    check(&mut rig, of(1), (EACCES, EACCES, OK));
    check(&mut rig, of(3), (EROFS, OK, OK));
}
