//! What is done with a store that opened: whatever its index says, using it must not stop the process.

use sheen_journal::Fault;
use sheen_store::{OpenError, PunchKind, SeekTarget};
use sheen_types::Fid;

use crate::{base::ZONE, disk::Disk, machine::Machine};

/// Objects used.
const OBJECTS_MAX: usize = 12;
/// Bytes read of each end of an object.
const READ_BYTES: u64 = 64 << 10;

/// Opens a disk; if that works, reads, changes and removes its objects, and opens it again.
///
/// # Panics
/// When a store that opened does not open again.
pub fn open_and_use(disk: Disk) {
    let Ok(mut machine) = Machine::open(ZONE, disk) else { return };
    let objects: Vec<Fid> = machine.store.objects(Fid::NONE).take(OBJECTS_MAX).collect();
    for (number, &object) in objects.iter().enumerate() {
        use_object(&mut machine, number, object);
    }
    let statistics = machine.store.statistics();
    assert!(statistics.used_blocks <= ZONE.blocks, "{statistics:?}");
    machine.checkpoint();
    // Whatever an image made of them: a request may fail, the store goes on.
    let _ = machine.sync();
    match Machine::open(ZONE, machine.disk) {
        Ok(_) => {}
        // The input said the last number there can be, and the opening counted on.
        Err(OpenError::Anchor(damage))
            if damage.faults.contains(&Fault::Malformed { field: "counter" })
                || damage.faults.contains(&Fault::Malformed { field: "generation" }) => {}
        Err(error) => panic!("opened once, but then: {error:?}"),
    }
}

fn use_object(machine: &mut Machine, number: usize, object: Fid) {
    let Some(attributes) = machine.store.attributes(object) else { return };
    let last = attributes.size.saturating_sub(READ_BYTES);
    let _ = machine.read(object, 0, READ_BYTES);
    let _ = machine.read(object, last, READ_BYTES);
    for target in [SeekTarget::Data, SeekTarget::Hole] {
        let _ = machine.store.seek(object, attributes.size / 2, target);
    }
    let _ = match number % 6 {
        0 => machine.write(object, attributes.size.min(1 << 51), b"more"),
        1 => machine.truncate(object, attributes.size / 2 + 1),
        2 => machine.punch(object, 1, attributes.size, PunchKind::Hole),
        3 => machine.punch(object, 5000, 20_000, PunchKind::Zero),
        4 => machine.allocate(object, 0, 3 << 12),
        _ => machine.destroy(object),
    };
}
