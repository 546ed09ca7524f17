//! Sheen's own driver on a controller behind the IOMMU.

mod workload;
mod drive;
mod io;
mod format;
mod trouble;
mod removal;
mod sleep;

use crate::Context;
use crate::controllers::{bind, unbind};

/// Runs the items that want the driver.
pub(crate) fn run(context: &mut Context) {
    let main = context.controllers.main().to_owned();
    let spare = context.controllers.spare().to_owned();
    let bound = context.report.case("driver", "the controllers are bound", || {
        bind(&main)?;
        bind(&spare)?;
        Ok(format!("{main}, {spare}"))
    });
    if !bound {
        return;
    }
    io::run(&mut context.report, &main);
    sleep::run(&mut context.report, &main);
    trouble::run(&mut context.report, &mut context.host, &spare);
    format::run(&mut context.report, &spare);
    removal::run(&mut context.report, &mut context.host, &spare);
    context.report.case("driver", "the kernel's driver has them back, and works", || {
        for address in [&main, &spare] {
            unbind(address)?;
            crate::commands::works(&crate::controllers::block_device(address, 1)?, 5)?;
        }
        Ok("2 controllers".to_owned())
    });
}
