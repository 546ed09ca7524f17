//! `sheen-guest-suite`: what is tested inside the guest.
//!
//! One file per item, in the order in which failures are cheapest. Every case prints what it counted.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod program;
mod controllers;
mod commands;
mod plug;
mod driver;
mod node;
mod tpm;
mod speed;

use anyhow::{Result, bail};
use clap::Parser;
use controllers::Controllers;
use sheen_conformance::report::{Report, line};
use sheen_guest::channel::GuestEnd;

/// Runs the items named, or all.
#[derive(Debug, Parser)]
struct Arguments {
    /// Items to run
    items: Vec<String>,
}

/// What an item has.
#[derive(Debug)]
struct Context {
    report: Report,
    controllers: Controllers,
    /// The runner, who pulls devices.
    host: GuestEnd,
}

type Item = (&'static str, fn(&mut Context));

const ITEMS: &[Item] = &[
    ("commands", commands::run),
    ("plug", plug::run),
    ("driver", driver::run),
    ("node", node::run),
    ("tpm", tpm::run),
    ("speed", speed::run),
];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            line(format_args!("sheen-guest-suite: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<usize> {
    for name in &arguments.items {
        if !ITEMS.iter().any(|(item, _)| item == name) {
            bail!("there is no item `{name}`");
        }
    }
    let mut context = Context {
        report: Report::new(),
        controllers: Controllers::found()?,
        host: GuestEnd::open()?,
    };
    for (name, item) in ITEMS {
        if arguments.items.is_empty() || arguments.items.iter().any(|given| given == name) {
            item(&mut context);
        }
    }
    context.report.close();
    Ok(context.report.failed())
}
