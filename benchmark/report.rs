//! Figures, and the table that they make.

use crate::{Bench, Outcome};
use serde_json::{Value, json};

/// One thing that was measured.
pub(crate) struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    limit: Option<Limit>,
    target: Option<Target>,
}

/// What the same machine can do at best, in the unit of the figure.
struct Limit {
    what: &'static str,
    value: f64,
}

/// What a figure has to reach.
pub(crate) enum Target {
    RatioAtLeast(f64),
    RatioBelow(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure { what: what.into(), value, unit, limit: None, target: None }
    }

    pub(crate) fn limit(mut self, what: &'static str, value: f64) -> Figure {
        self.limit = Some(Limit { what, value });
        self
    }

    pub(crate) fn target(mut self, target: Target) -> Figure {
        self.target = Some(target);
        self
    }

    fn ratio(&self) -> Option<f64> {
        self.limit.as_ref().map(|limit| self.value / limit.value)
    }

    fn holds(&self) -> Option<bool> {
        let ratio = self.ratio().unwrap_or(f64::NAN);
        self.target.as_ref().map(|target| match target {
            Target::RatioAtLeast(least) => ratio >= *least,
            Target::RatioBelow(most) => ratio < *most,
            Target::AtLeast(least) => self.value >= *least,
            Target::AtMost(most) => self.value <= *most,
        })
    }

    fn cells(&self) -> [String; 6] {
        let limit = self.limit.as_ref().map(|limit| format!("{} ({})", short(limit.value), limit.what));
        let holds = self.holds().map(|holds| if holds { "yes" } else { "NO" });
        [
            self.what.clone(),
            format!("{} {}", short(self.value), self.unit),
            limit.unwrap_or_default(),
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            self.target.as_ref().map(Target::text).unwrap_or_default(),
            holds.unwrap_or_default().into(),
        ]
    }

    fn json(&self, group: &str) -> Value {
        json!({
            "group": group,
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "limit": self.limit.as_ref().map(|limit| json!({ "what": limit.what, "value": limit.value })),
            "ratio": self.ratio(),
            "target": self.target.as_ref().map(Target::text),
            "holds": self.holds(),
        })
    }
}

impl Target {
    fn text(&self) -> String {
        match self {
            Target::RatioAtLeast(least) => format!("ratio ≥ {least}"),
            Target::RatioBelow(most) => format!("ratio < {most}"),
            Target::AtLeast(least) => format!("≥ {least}"),
            Target::AtMost(most) => format!("≤ {most}"),
        }
    }
}

/// As many digits as mean something.
fn short(value: f64) -> String {
    match value.abs() {
        0.0..0.1 => format!("{value:.4}"),
        0.1..10.0 => format!("{value:.2}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// All figures of a run.
pub(crate) struct Report {
    machine: String,
    figures: Vec<(&'static str, Figure)>,
    json_on_stdout: bool,
}

impl Report {
    pub(crate) fn new(bench: &Bench) -> Report {
        let json_on_stdout = bench.options.json.as_deref() == Some("-");
        Report { machine: machine(), figures: Vec::new(), json_on_stdout }
    }

    pub(crate) fn add(&mut self, group: &'static str, figures: Vec<Figure>) {
        for figure in figures {
            eprintln!("bench:   {}", figure.cells().join(" | "));
            self.figures.push((group, figure));
        }
    }

    /// A Markdown table on standard output, so that it can be put into a document as it is.
    pub(crate) fn print(&self) {
        if self.json_on_stdout {
            return;
        }
        let head =
            ["what", "figure", "limit on the same machine", "ratio", "target", "holds"].map(String::from);
        let rows: Vec<[String; 6]> =
            std::iter::once(head).chain(self.figures.iter().map(|(_, figure)| figure.cells())).collect();
        let widths: [usize; 6] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        println!("{}\n", self.machine);
        for (number, row) in rows.iter().enumerate() {
            let cells: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
            }
        }
    }

    pub(crate) fn write_json(&self, path: &str) -> Outcome<()> {
        let figures: Vec<Value> = self.figures.iter().map(|(group, figure)| figure.json(group)).collect();
        let text = serde_json::to_string_pretty(&json!({ "machine": self.machine, "figures": figures }))?;
        match path {
            "-" => println!("{text}"),
            path => std::fs::write(path, text + "\n")?,
        }
        Ok(())
    }
}

/// The machine in one line.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{} ({cores} cores), RAM {}, Linux {}",
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
