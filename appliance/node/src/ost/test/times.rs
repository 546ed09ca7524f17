//! Times of changes under a clock that was ahead.

use std::time::Duration;

use sheen_types::{Fid, Timespec};
use sheen_wire::{
    Opcode,
    object::{ObjectWrite, WriteReply},
};

use super::rig::{NOW, Rig, object, write_body};

fn written(rig: &mut Rig, object: Fid) -> Timespec {
    let body = ObjectWrite { mtime: Timespec::ZERO, ..write_body(object, 0, false) };
    let reply = rig.call(Opcode::ObjectWrite, &body, &[1; 4096], 0);
    reply.body::<WriteReply>().mtime
}

#[test]
fn changes_under_a_clock_that_was_set_back_are_told_apart_and_in_order() {
    let mut rig = Rig::new(4096);
    assert_eq!(written(&mut rig, object(1)), NOW);
    let ahead = NOW.after(Duration::from_secs(7200));
    rig.service.wall = ahead;
    let first = written(&mut rig, object(1));
    let second = written(&mut rig, object(2));
    let third = written(&mut rig, object(1));
    assert!(ahead < first && first < second && second < third, "{first:?} {second:?} {third:?}");
    // As after a start, which does not know how far the clock was.
    rig.service.wall = Timespec::ZERO;
    let decided = third.after(Duration::from_micros(1));
    assert!(written(&mut rig, object(1)) > decided, "later than what was decided meanwhile");
    assert_eq!(written(&mut rig, object(3)), NOW, "what has no such time goes by the clock");
}
