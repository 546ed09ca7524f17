//! The explorer: drives histories, and at each moment restarts the store on what a crash then could leave.
//!
//! Each device image is restarted once and counted once; its content is kept, so that the same image at a later moment,
//! when more is promised, is judged again without a restart.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    time::Instant,
};

use crate::{
    chance::Chance,
    history::{Crash, Failure, Faults, History, Plan, Witness},
    image::SECTORS,
    medium::{Cache, Medium, assemble},
    promise::{Model, Status, Verdict},
    restart::{self, Content, Setup, Violation},
    states::{self, Budget, Choice, Place, Shape},
};

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seed of the first history.
    pub first_seed: u64,
    /// Histories at most.
    pub histories_max: u64,
    /// Stop at so many distinct states.
    pub states: u64,
    /// Lines of the log a failure tells.
    pub log: usize,
}

/// What was explored.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Histories.
    pub histories: u64,
    /// Moments at which a crash was imagined.
    pub moments: u64,
    /// States looked at, the same image at several moments counted each time.
    pub judged: u64,
    /// Distinct images, by device, crash and shape.
    pub distinct: BTreeMap<(Cache, Crash, Shape), u64>,
    /// States that too many outcomes could explain.
    pub undecided: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Of them those that began anew, in the other area.
    pub bases: u64,
    /// Seconds.
    pub seconds: f64,
}

impl Counts {
    /// Distinct images of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.distinct.values().sum()
    }
}

/// A state that breaks the promise.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Seed of the history.
    pub seed: u64,
    /// What is wrong.
    pub violation: Violation,
    /// The crash: which blocks are there.
    pub state: String,
    /// What happened before.
    pub log: Vec<String>,
}

/// Sees one history.
struct Explorer<'a> {
    counts: &'a mut Counts,
    budget: Budget,
    chance: Chance,
    /// Distinct states this history may bring.
    left: u64,
    /// Whether anybody looks.
    awake: bool,
    /// Number of the content each image was found to hold.
    seen: HashMap<u64, u32>,
    contents: Vec<Content>,
    numbers: HashMap<Content, u32>,
    /// Contents found to keep the promise of this version of the model, by what is certain.
    kept: HashSet<(bool, u32)>,
    version: u64,
}

impl Explorer<'_> {
    fn new(counts: &mut Counts, seed: u64, budget: Budget, left: u64) -> Explorer<'_> {
        Explorer {
            counts,
            budget,
            chance: Chance::new(!seed),
            left,
            awake: false,
            seen: HashMap::new(),
            contents: Vec::new(),
            numbers: HashMap::new(),
            kept: HashSet::new(),
            version: 0,
        }
    }

    fn number(&mut self, content: Content) -> u32 {
        if let Some(&number) = self.numbers.get(&content) {
            return number;
        }
        let number = u32::try_from(self.contents.len()).unwrap_or(u32::MAX);
        self.contents.push(content.clone());
        self.numbers.insert(content, number);
        number
    }

    /// Judges content by the promise.
    fn judge(&mut self, number: u32, model: &Model, certain: Status) -> Result<(), Violation> {
        if self.version != model.version {
            self.kept.clear();
            self.version = model.version;
        }
        if !self.kept.insert((certain == Status::Durable, number)) {
            return Ok(());
        }
        let content = &self.contents[number as usize];
        for (object, (promised, found)) in model.objects.iter().zip(content).enumerate() {
            match promised.judge(found, certain) {
                Verdict::Kept => {}
                Verdict::Undecided => self.counts.undecided += 1,
                Verdict::Broken => {
                    let promised = format!("{promised:?}");
                    return Err(Violation::Broken { object, found: found.clone(), promised });
                }
            }
        }
        Ok(())
    }

    fn crash(
        &mut self,
        crash: Crash,
        medium: &mut Medium,
        model: &Model,
        setup: &Setup,
    ) -> Result<(), Failure> {
        let Medium { cache, image, hashes, hash, pending, .. } = medium;
        let places: Vec<Place<'_>> = pending
            .iter()
            .map(|(&number, versions)| {
                let done = versions.iter().take_while(|version| version.completed.is_some());
                let floor = match crash {
                    Crash::Power => 0,
                    Crash::Kill => u8::try_from(done.count()).unwrap_or(u8::MAX),
                };
                Place { number, durable: &hashes[number], versions, floor }
            })
            .collect();
        let certain = match (crash, *cache) {
            (Crash::Power, Cache::Volatile | Cache::Forced) => Status::Durable,
            (Crash::Power, Cache::None) | (Crash::Kill, _) => Status::Completed,
        };
        let (budget, mut chance) = (self.budget, self.chance.clone());
        let result = states::for_each(&places, &budget, &mut chance, |shape, choice| {
            self.counts.judged += 1;
            let state = states::hash(*hash, &places, choice);
            let found = match self.seen.get(&state) {
                Some(&number) => Ok(number),
                None => {
                    *self.counts.distinct.entry((*cache, crash, shape)).or_default() += 1;
                    self.left = self.left.saturating_sub(1);
                    let content = restart_on(image, &places, choice, setup);
                    content.map(|content| {
                        let number = self.number(content);
                        self.seen.insert(state, number);
                        number
                    })
                }
            };
            found.and_then(|number| self.judge(number, model, certain)).map_err(|violation| {
                let least = minimize(image, &places, choice, setup, model, certain);
                let state = describe(crash, image, &places, &least);
                Failure::Broken { violation, state }
            })
        });
        self.chance = chance;
        result
    }
}

/// Restarts the store on the image of a choice, and takes everything back.
fn restart_on(
    image: &mut crate::image::Image,
    places: &[Place<'_>],
    choice: &Choice,
    setup: &Setup,
) -> Result<Content, Violation> {
    image.remember();
    for (place, &sectors) in places.iter().zip(choice) {
        let lba = image.lba(place.number);
        match sectors[0] {
            content if sectors.iter().any(|&other| other != content) => {
                let block = assemble(image.block(place.number), place.versions, sectors);
                image.write(lba, &block);
            }
            0 => {}
            content => image.write(lba, &place.versions[usize::from(content) - 1].content),
        }
    }
    let content = restart::check(image, setup);
    image.go_back();
    content
}

/// The same failure with as much of what is pending there as can be.
fn minimize(
    image: &mut crate::image::Image,
    places: &[Place<'_>],
    choice: &Choice,
    setup: &Setup,
    model: &Model,
    certain: Status,
) -> Choice {
    let mut least = choice.clone();
    for at in 0..places.len() {
        let mut tried = least.clone();
        tried[at] = [u8::try_from(places[at].versions.len()).unwrap_or(u8::MAX); SECTORS];
        let broken = match restart_on(image, places, &tried, setup) {
            Err(_) => true,
            Ok(content) => model
                .objects
                .iter()
                .zip(&content)
                .any(|(object, found)| object.judge(found, certain) == Verdict::Broken),
        };
        if broken {
            least = tried;
        }
    }
    least
}

/// Which of the pending blocks are there.
fn describe(
    crash: Crash,
    image: &crate::image::Image,
    places: &[Place<'_>],
    choice: &Choice,
) -> String {
    let mut text = format!("{crash:?}: ");
    for (place, sectors) in places.iter().zip(choice) {
        let last = place.versions.len();
        let writes: Vec<u64> = place.versions.iter().map(|version| version.write).collect();
        let _ = write!(text, "[{} of writes {writes:?}: ", image.lba(place.number));
        let _ = match sectors {
            all if all.iter().all(|&content| content == 0) => write!(text, "absent] "),
            all if all.iter().all(|&content| usize::from(content) == last) => {
                write!(text, "there] ")
            }
            torn => write!(text, "sectors {torn:?}] "),
        };
    }
    text
}

impl Witness for Explorer<'_> {
    fn look(&mut self, medium: &mut Medium, model: &Model, setup: &Setup) -> Result<(), Failure> {
        if !self.awake {
            return Ok(());
        }
        self.counts.moments += 1;
        self.crash(Crash::Power, medium, model, setup)?;
        if medium.cache != Cache::None {
            self.crash(Crash::Kill, medium, model, setup)?;
        }
        if self.left == 0 { Err(Failure::Enough) } else { Ok(()) }
    }
}

/// What a history of this seed is like.
struct Kind {
    plan: Plan,
    budget: Budget,
    /// Turns nobody looks at, so that the device is aged.
    prelude: usize,
    /// Turns of each life.
    turns: usize,
    lives: usize,
    states_max: u64,
}

fn kind(seed: u64) -> Kind {
    let mut chance = Chance::new(seed ^ 0x5eed);
    let cache = Cache::ALL[chance.below(5).saturating_sub(2)];
    let packs = chance.one_in(2);
    let blocks = 2048 + chance.below(64);
    let prelude = if chance.one_in(3) { 0 } else { chance.below(260) };
    // So many that the area of the checkpoint is full, and a base in the other one is due.
    let is_hungry = chance.one_in(4);
    let (checkpoints, prelude) = if is_hungry { (4, prelude * 4) } else { (60, prelude) };
    if seed.is_multiple_of(3) {
        return Kind {
            plan: Plan {
                cache,
                blocks,
                cells: 60,
                write_cells: 50,
                packs,
                checkpoints,
                faults: Faults::default(),
            },
            budget: Budget {
                exhaustive_max: 64,
                torn_exhaustive_max: 64,
                sampled: 12,
                torn_sampled: 12,
            },
            prelude,
            turns: 60,
            lives: 3,
            states_max: 1500,
        };
    }
    Kind {
        plan: Plan {
            cache,
            blocks,
            cells: 24,
            write_cells: 30,
            packs,
            checkpoints,
            faults: Faults::default(),
        },
        budget: Budget {
            exhaustive_max: 1 << 12,
            torn_exhaustive_max: 1 << 8,
            sampled: 24,
            torn_sampled: 12,
        },
        prelude,
        turns: 14,
        lives: 2,
        states_max: 1500,
    }
}

/// Explores one history.
///
/// # Errors
/// What it found.
pub fn explore_history(
    seed: u64,
    counts: &mut Counts,
    left: u64,
    log: usize,
) -> Result<(), Box<Finding>> {
    let kind = kind(seed);
    let mut history = History::new(seed, kind.plan);
    let mut explorer = Explorer::new(counts, seed, kind.budget, kind.states_max.min(left));
    let ended = run(&mut history, &kind, &mut explorer);
    history.crash(Crash::Kill);
    let (checkpoints, bases) = (history.checkpoints, history.bases);
    counts.histories += 1;
    counts.checkpoints += checkpoints;
    counts.bases += bases;
    match ended {
        Ok(()) | Err(Failure::Enough) => Ok(()),
        Err(Failure::Broken { violation, state }) => {
            let log = history.last_lines(log).to_vec();
            Err(Box::new(Finding { seed, violation, state, log }))
        }
    }
}

/// Ages the device unseen, then looks at everything: from an opening on or in the midst of service, through crashes.
fn run(history: &mut History, kind: &Kind, explorer: &mut Explorer<'_>) -> Result<(), Failure> {
    explorer.awake = kind.prelude == 0;
    history.open(explorer)?;
    explorer.awake = false;
    for _ in 0..kind.prelude {
        history.turn(explorer)?;
        if history.chance.one_in(60) {
            crash(history, explorer)?;
        }
    }
    if history.chance.one_in(3) {
        history.settle(explorer)?;
    }
    explorer.awake = true;
    if history.chance.one_in(4) {
        crash(history, explorer)?;
    }
    for life in 0..kind.lives {
        if life > 0 {
            crash(history, explorer)?;
        }
        for _ in 0..kind.turns {
            history.turn(explorer)?;
        }
    }
    history.settle(explorer)
}

fn crash(history: &mut History, explorer: &mut Explorer<'_>) -> Result<(), Failure> {
    let crash = if history.chance.one_in(2) { Crash::Kill } else { Crash::Power };
    history.crash(crash);
    history.open(explorer)
}

/// Explores histories, one seed after another, until enough states were seen.
///
/// # Errors
/// The first finding.
pub fn explore(
    options: &Options,
    mut progress: impl FnMut(u64, &Counts),
) -> Result<Counts, (Counts, Box<Finding>)> {
    let begun = Instant::now();
    let mut counts = Counts::default();
    for seed in options.first_seed..options.first_seed.saturating_add(options.histories_max) {
        let left = options.states.saturating_sub(counts.total());
        if left == 0 {
            break;
        }
        progress(seed, &counts);
        let explored = explore_history(seed, &mut counts, left, options.log);
        counts.seconds = begun.elapsed().as_secs_f64();
        if let Err(finding) = explored {
            return Err((counts, finding));
        }
    }
    Ok(counts)
}
