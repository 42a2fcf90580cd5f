//! Keeps the walker supplied: asks for rows where samples (will) need them and
//! tells the kernel side what each target has mapped.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::module::{ModuleId, Modules, Rows, note};
use super::process::{MappedModule, Process, Processes};
use crate::model::{Mapping, Svma};
use crate::sampler::{Built, Job, RowsOf, Sampler, SliceEntry, SliceId, TableBuilder, Tables};
use crate::{ErrorKind, Result};

/// Requests for rows and their arrival.
#[derive(Debug)]
pub struct Coverage {
    builder: TableBuilder,
    /// Single pages being built.
    pages_asked: HashSet<(ModuleId, u64)>,
    /// Whole files being built.
    unfinished: HashSet<ModuleId>,
    /// What the user should know, once each.
    pub warnings: Vec<String>,
}

/// Files whose rows are built before sampling begins; what else is mapped waits for a sample.
const MAX_PREFETCHED: usize = 64;
/// Code of a file that is built ahead without being the program itself, 8 MiB: some 50 ms of work.
const MAX_PREFETCHED_BYTES: u64 = 8 << 20;

impl Coverage {
    /// Builds with `builder`.
    pub fn new(builder: TableBuilder) -> Self {
        Self { builder, pages_asked: HashSet::new(), unfinished: HashSet::new(), warnings: Vec::new() }
    }

    /// Whether something is being built.
    pub fn is_busy(&self) -> bool {
        self.builder.is_busy()
    }

    /// Whether some rows of this file are still to come.
    pub fn is_building(&self, id: ModuleId) -> bool {
        self.unfinished.contains(&id)
    }

    /// Asks for the rows of what a process is most likely to execute: the program, then
    /// its libraries, larger ones first. Returns the program's module.
    pub fn prefetch(&mut self, pid: u32, process: &Process, modules: &mut Modules) -> Option<ModuleId> {
        let program = process.mappings.iter().find_map(|mapped| mapped.module);
        let mut wanted: Vec<&MappedModule> = process.mappings.iter().filter(|m| m.module.is_some()).collect();
        wanted.sort_by_key(|m| (m.module != program, std::cmp::Reverse(m.mapping.len_bytes())));
        let small = |m: &&&MappedModule| m.module == program || m.mapping.len_bytes() <= MAX_PREFETCHED_BYTES;
        for mapped in wanted.iter().filter(small).take(MAX_PREFETCHED) {
            if let Some(id) = mapped.module {
                modules.open(id, pid, &mapped.mapping);
                self.want(id, None, modules);
            }
        }
        program
    }

    /// Asks for the rows of a module, the page of `svma` first. Asking again is free.
    pub fn want(&mut self, id: ModuleId, svma: Option<Svma>, modules: &mut Modules) {
        let module = modules.get_mut(id);
        let page = svma.map(|svma| svma.0 >> 16);
        let only_page = match module.rows {
            Rows::NotAsked => false,
            Rows::Placed(_) if page.is_some_and(|page| self.pages_asked.insert((id, page))) => true,
            Rows::Placed(_) | Rows::Building | Rows::Absent => return,
        };
        let Some(source) = module.source.clone() else {
            if module.is_open {
                module.rows = Rows::Absent;
            }
            return;
        };
        let accepted = self.builder.submit(Job { module: id.0, source, page, only_page });
        match (accepted, only_page) {
            (true, false) => {
                module.rows = Rows::Building;
                self.unfinished.insert(id);
            }
            (false, true) => {
                self.pages_asked.remove(&(id, page.unwrap_or(0)));
            }
            // A full queue: the next sample asks again.
            (true, true) | (false, false) => {}
        }
    }

    /// Loads what has been built. Processes that map a file whose rows got a place become dirty.
    pub fn receive(
        &mut self,
        tables: &mut Tables,
        modules: &mut Modules,
        processes: &mut Processes,
        now_ns: u64,
    ) {
        while let Some(built) = self.builder.take() {
            let id = ModuleId(built.module);
            if built.last {
                self.unfinished.remove(&id);
            }
            let before = modules.get(id).rows;
            let after = self.place(&built, before, tables, modules, now_ns);
            if after != before {
                modules.get_mut(id).rows = after;
                let maps_it = |p: &&mut Process| p.mappings.iter().any(|mapped| mapped.module == Some(id));
                processes.values_mut().filter(maps_it).for_each(|process| process.is_dirty = true);
            }
        }
    }

    fn place(
        &mut self,
        built: &Built,
        before: Rows,
        tables: &mut Tables,
        modules: &Modules,
        now_ns: u64,
    ) -> Rows {
        let id = ModuleId(built.module);
        let chunk = match &built.chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                // What is no ELF file (generated code kept in files) is ordinary: frame pointers it is.
                if error.kind() != ErrorKind::Corrupt || !modules.get(id).segments.is_empty() {
                    let path = &modules.get(id).display;
                    note(&mut self.warnings, format!("no unwind rows for `{path}`: {error}"));
                }
                return if before == Rows::Building { Rows::Absent } else { before };
            }
        };
        chunk.page_range().for_each(|page| {
            self.pages_asked.remove(&(id, page));
        });
        let place = match before {
            Rows::Placed(place) => place,
            Rows::NotAsked | Rows::Building | Rows::Absent => {
                let page_count = (built.pages.end - built.pages.start) as usize;
                if page_count == 0 {
                    return Rows::Absent;
                }
                match tables.add_file(built.pages.start, page_count, now_ns) {
                    Some(place) => place,
                    None => {
                        let path = &modules.get(id).display;
                        let what = format!("no room for the unwind rows of `{path}`: frame pointers only");
                        note(&mut self.warnings, what);
                        return Rows::Absent;
                    }
                }
            }
        };
        let _all_or_asked_again = tables.load(place, chunk, now_ns);
        Rows::Placed(place)
    }
}

/// Tells the walker about every process whose mappings changed; what fails is tried again by the next call. Processes that
/// still share their mappings after a fork share a slice.
pub fn tell_walker(sampler: &mut Sampler, processes: &mut Processes, modules: &mut Modules) -> Result<()> {
    let mut slices: HashMap<*const Vec<MappedModule>, (SliceId, usize)> = HashMap::new();
    for (pid, process) in processes.iter_mut().filter(|(_, process)| process.is_dirty) {
        process.is_dirty = false;
        let key = Arc::as_ptr(&process.mappings);
        let slice = match slices.get(&key) {
            Some(slice) => {
                sampler.tables.share_slice(slice.0);
                Some(*slice)
            }
            None => {
                let entries = slice_entries(process, modules);
                let slice = sampler.tables.add_slice(&entries).map(|id| (id, entries.len()));
                slices.extend(slice.map(|slice| (key, slice)));
                slice
            }
        };
        if let Some((old, _)) = std::mem::replace(&mut process.slice, slice) {
            sampler.tables.release_slice(old);
        }
        modules.open_python(*pid, &process.mappings);
        process.python.attach(&process.mappings, modules, &mut sampler.pythons);
        sampler
            .update_target(*pid, slice, process.python.walked())
            .inspect_err(|_| process.is_dirty = true)?;
    }
    Ok(())
}

fn slice_entries(process: &Process, modules: &Modules) -> Vec<SliceEntry> {
    // The walker takes addresses with the top bit set for its own flags; only the kernel lives there.
    let in_user_space = |mapped: &&MappedModule| mapped.mapping.end.0 >> 63 == 0;
    process.mappings.iter().filter(in_user_space).map(|mapped| slice_entry(mapped, modules)).collect()
}

fn slice_entry(mapped: &MappedModule, modules: &Modules) -> SliceEntry {
    let Mapping { start, end, .. } = mapped.mapping;
    let module = mapped.module.map(|id| modules.get(id));
    let (rows, bias) = match module.map(|module| (module.rows, module.bias(&mapped.mapping))) {
        None | Some((Rows::Absent, _)) | Some((Rows::Placed(_), None)) => (RowsOf::Nothing, 0),
        Some((Rows::NotAsked | Rows::Building, _)) => (RowsOf::Later, 0),
        Some((Rows::Placed(table), Some(bias))) => (RowsOf::Table(table), bias),
    };
    SliceEntry { start, end, bias, rows }
}
