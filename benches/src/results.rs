//! The measurements in `results.json`.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// All cells, in the order in which they were measured.
#[derive(Deserialize)]
pub struct Results {
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
pub struct Cell {
    pub workload: String,
    pub case: String,
    pub peer: String,
    pub len: Option<usize>,
    /// Of the counted runs.
    pub placement: String,
    /// The ratio to its limit.
    pub times_limit: Option<f64>,
    figures: BTreeMap<String, Figure>,
}

#[derive(Deserialize)]
struct Figure {
    median: f64,
}

impl Results {
    pub fn parse(text: &str) -> Result<Self> {
        Ok(serde_json::from_str(text)?)
    }

    /// The cells of all these files.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Results { cells: Vec::new() };
        for path in paths {
            let name = || path.display().to_string();
            let text = std::fs::read_to_string(path).with_context(name)?;
            all.cells.extend(Self::parse(&text).with_context(name)?.cells);
        }
        Ok(all)
    }

    pub fn of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.workload == workload)
    }

    /// Returns all peers of one case. Their medians are of the same placement.
    pub fn peers<'a>(&'a self, workload: &str, case: &str) -> Vec<&'a Cell> {
        let of_case = |cell: &&Cell| cell.workload == workload && cell.case == case;
        self.cells.iter().filter(of_case).collect()
    }

    pub fn cell(&self, workload: &str, case: &str, peer: &str) -> Option<&Cell> {
        self.peers(workload, case).into_iter().find(|cell| cell.peer == peer)
    }

    /// The first case of a workload that ends like this.
    pub fn case_ending<'a>(&'a self, workload: &'a str, end: &str) -> Option<&'a str> {
        Some(self.of(workload).find(|cell| cell.case.ends_with(end))?.case.as_str())
    }
}

impl Cell {
    pub fn median(&self, figure: &str) -> Option<f64> {
        self.figures.get(figure).map(|figure| figure.median)
    }
}
