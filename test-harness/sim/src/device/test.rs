//! Checks the simulated device against its own fault model before anybody relies on it.

use sheen_ports::{Block, BlockCommand, BlockOperation};

use super::*;

#[test]
fn a_power_cut_takes_only_what_was_not_flushed() {
    let clock = SimClock::default();
    let media = Media::new(64, Chance::new(1));
    let mut device = SimDevice::new(&media, Lba(0), 64, clock.clone(), Chance::new(2));
    let write = |device: &mut SimDevice, lba: u64, fill: u8, durable: bool| {
        let mut buffer = sheen_dma::Buffer::standalone(BLOCK_BYTES);
        buffer.as_mut_slice().fill(fill);
        let operation = BlockOperation::Write { lba: Lba(lba), buffer, durable };
        device.submit(BlockCommand { token: lba, operation }).unwrap();
        clock.advance_to(Tick(clock.tick().0 + 1_000_000));
        assert_eq!(device.poll(&mut Vec::new()), 1);
    };
    for lba in 0..32 {
        write(&mut device, lba, 1, true);
        write(&mut device, lba, 2, false);
    }
    media.borrow_mut().cut_power();
    let mut kept = [0; 3];
    for lba in 0..32 {
        let mut block = [0; BLOCK_BYTES];
        media.borrow().read(lba, &mut block);
        assert!(block.iter().all(|&byte| byte == 1 || byte == 2));
        let whole = block.iter().all(|&byte| byte == block[0]);
        kept[if whole { usize::from(block[0] - 1) } else { 2 }] += 1;
    }
    assert!(kept.iter().all(|&count| count > 0), "kept, lost and torn all happen: {kept:?}");
}
