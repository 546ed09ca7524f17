//! How fast a zone's cipher is on one core: blocks of 4 KiB in cache, both directions, CPU time of each block.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use sheen_keys::{DataKey, ZoneTag};
use sheen_types::{BLOCK_BYTES, Lba};

/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let zone = ZoneTag { kind: 2, number: 0, identity: 1 };
    let mut cipher = DataKey::generate()?.zone_cipher(&[0; 16], zone)?;
    for blocks in [1, 256] {
        let mut data = vec![7; blocks * BLOCK_BYTES];
        for encrypts in [true, false] {
            let begun = Instant::now();
            let mut rounds = 0_u64;
            while begun.elapsed() < TIME {
                // Many between two looks at the clock.
                for _ in 0..256 / blocks {
                    if encrypts {
                        cipher.encrypt(Lba(rounds), &mut data);
                    } else {
                        cipher.decrypt(Lba(rounds), &mut data);
                    }
                    rounds += 1;
                }
            }
            let nanoseconds = begun.elapsed().as_secs_f64() * 1e9;
            let each = nanoseconds / (rounds as f64 * blocks as f64);
            let verb = if encrypts { "encrypt" } else { "decrypt" };
            writeln!(
                std::io::stdout(),
                "{verb} {blocks:>3} blocks at a time: {each:.0} ns a block, {:.1} GB/s",
                BLOCK_BYTES as f64 / each
            )?;
        }
    }
    Ok(())
}
