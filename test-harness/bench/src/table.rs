//! The figures of a run: printed as lines, kept for JSON.

use std::path::Path;

use serde::Serialize;
use sheen_conformance::report::line;

use crate::samples::{Samples, Spread};

/// Whether more or less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Better {
    /// As rates.
    Higher,
    /// As times.
    Lower,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Goal {
    /// The bound: of the ratio when there is one, of the figure itself when not.
    pub bound: f64,
    /// Which side of the bound is right.
    pub better: Better,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In what unit.
    pub unit: &'static str,
    /// Rounds measured.
    pub rounds: usize,
    /// Sheen's.
    pub sheen: Option<Spread>,
    /// That of what it is compared with, and its name.
    pub other: Option<(String, Spread)>,
    /// Sheen's divided by the other's, round by round.
    pub ratio: Option<Spread>,
    /// What was aimed at.
    pub goal: Option<Goal>,
    /// Whether the median is on the right side; `None` without a goal.
    pub is_reached: Option<bool>,
}

/// What one operation costs, as root and as an ordinary user.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// The operation.
    pub operation: String,
    /// In which build.
    pub build: &'static str,
    /// Requests to servers for each, and commits of the metadata log.
    pub requests: [f64; 2],
    /// See above.
    pub commits: [f64; 2],
    /// The same in the seconds after, when the operation has long returned.
    pub later: [f64; 2],
    /// See above.
    pub later_commits: [f64; 2],
    /// Names of the requests.
    pub which: String,
    /// Why they are needed.
    pub reason: &'static str,
}

/// All figures of a run.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    figures: Vec<Figure>,
    costs: Vec<Cost>,
    notes: Vec<String>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a note that is printed with the figures.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        line(format_args!("note: {text}"));
        self.notes.push(text);
    }

    /// Adds a figure compared with another.
    pub fn compare(
        &mut self,
        name: &str,
        unit: &'static str,
        sheen: &Samples,
        (other_name, other): (&str, &Samples),
        goal: Option<Goal>,
    ) {
        let ratio = sheen.ratios(other).spread();
        self.add(Figure {
            name: name.to_owned(),
            unit,
            rounds: sheen.rounds(),
            sheen: sheen.spread(),
            other: other.spread().map(|spread| (other_name.to_owned(), spread)),
            ratio,
            goal,
            is_reached: is_reached(goal, ratio),
        });
    }

    /// Adds a figure that stands alone.
    pub fn alone(&mut self, name: &str, unit: &'static str, sheen: &Samples, goal: Option<Goal>) {
        let spread = sheen.spread();
        self.add(Figure {
            name: name.to_owned(),
            unit,
            rounds: sheen.rounds(),
            sheen: spread,
            other: None,
            ratio: None,
            goal,
            is_reached: is_reached(goal, spread),
        });
    }

    /// Adds what an operation costs.
    pub fn cost(&mut self, cost: Cost) {
        line(cost_row(&cost));
        self.costs.push(cost);
    }

    fn add(&mut self, figure: Figure) {
        line(row(&figure));
        self.figures.push(figure);
    }

    /// Prints everything once more.
    pub fn close(&self) {
        line("");
        line(format_args!(
            "{:<58} {:<10} {:>6}  {:<28} {:<28} {:<20} goal",
            "figure", "unit", "rounds", "Sheen min/median/max", "other min/median/max", "ratio"
        ));
        self.figures.iter().for_each(|figure| line(row(figure)));
        if !self.costs.is_empty() {
            line("");
            line(format_args!(
                "{:<30} {:<7} {:<26} {:<26} which; why",
                "requests (commits) each", "build", "root, + later", "user, + later"
            ));
        }
        self.costs.iter().for_each(|cost| line(cost_row(cost)));
        self.notes.iter().for_each(|note| line(format_args!("note: {note}")));
    }

    /// Writes the table as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        Ok(std::fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }
}

fn is_reached(goal: Option<Goal>, spread: Option<Spread>) -> Option<bool> {
    let (goal, median) = (goal?, spread?.median);
    Some(match goal.better {
        Better::Higher => median >= goal.bound,
        Better::Lower => median <= goal.bound,
    })
}

fn row(figure: &Figure) -> String {
    let other = figure.other.as_ref().map(|(_, spread)| *spread);
    let name = match &figure.other {
        Some((other, _)) => format!("{} / {other}", figure.name),
        None => figure.name.clone(),
    };
    let goal = match (figure.goal, figure.is_reached) {
        (Some(goal), Some(is_reached)) => {
            let sign = if goal.better == Better::Higher { ">=" } else { "<=" };
            let word = if is_reached { "reached" } else { "not reached" };
            format!("{sign} {} {word}", goal.bound)
        }
        _ => String::new(),
    };
    format!(
        "{name:<58} {:<10} {:>6}  {:<28} {:<28} {:<20} {goal}",
        figure.unit,
        figure.rounds,
        text_of(figure.sheen),
        text_of(other),
        text_of(figure.ratio),
    )
}

fn cost_row(cost: &Cost) -> String {
    let of = |who: usize| {
        let during = format!("{:.2} ({:.2})", cost.requests[who], cost.commits[who]);
        let (later, commits) = (cost.later[who], cost.later_commits[who]);
        if later + commits > 0.0 { format!("{during} + {later:.2} ({commits:.2})") } else { during }
    };
    let Cost { operation, build, which, reason, .. } = cost;
    format!("{operation:<30} {build:<7} {:<26} {:<26} {which}; {reason}", of(0), of(1))
}

fn text_of(spread: Option<Spread>) -> String {
    let Some(spread) = spread else { return "-".to_owned() };
    let number = |value: f64| {
        if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
    };
    format!("{}/{}/{}", number(spread.min), number(spread.median), number(spread.max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_judged_by_the_median() {
        let spread = Some(Spread { min: 0.5, median: 1.0, max: 2.0 });
        let goal = |bound, better| Some(Goal { bound, better });
        assert_eq!(is_reached(goal(1.0, Better::Higher), spread), Some(true));
        assert_eq!(is_reached(goal(1.1, Better::Higher), spread), Some(false));
        assert_eq!(is_reached(goal(0.9, Better::Lower), spread), Some(false));
        assert_eq!(is_reached(None, spread), None);
    }
}
