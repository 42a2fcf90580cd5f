//! What a program calls its threads.
//!
//! Before 3.14 CPython does not tell the kernel, so that all threads have the process's name there.
//! The module `threading` knows them:
//!
//! ```text
//! _PyRuntime ─► PyInterpreterState ─► modules["threading"].__dict__["_active"]
//!                     │ next                  └─► { thread_id: Thread, … }, Thread._name
//!                     ▼
//! ```
//!
//! `thread_id` is `pthread_self()`, which on x86-64 is the thread pointer. Threads that neither were
//! started by `threading` nor called into it are not there, and a program without threads may never
//! have imported it.

use std::collections::HashMap;

use super::object_layout::{MODULE_DICT, Modules, ObjectLayout};
use super::objects::{Heap, Memory};
use super::{Layout, Version};

/// Interpreters looked at; more than a few in one process are rare.
const MAX_INTERPRETERS: usize = 16;
/// Threads named in all of them together; more have no names.
const MAX_THREADS: usize = 4096;

/// The names of those threads of the process in `memory` whose thread pointers are `wanted`, by thread pointer; at most 4096, each of at most
/// 200 characters and an ellipsis, not cleaned. `runtime` is the address of `_PyRuntime`, `text_type` that of
/// `PyUnicode_Type`. Empty where nothing is found.
///
/// The list of interpreters ends with the first one, which has the last word: another one may run in a
/// thread that the first one named.
pub fn thread_names(
    memory: &dyn Memory,
    version: Version,
    layout: &Layout,
    runtime: u64,
    text_type: u64,
    wanted: &dyn Fn(u64) -> bool,
) -> HashMap<u64, String> {
    let mut names = HashMap::new();
    let Some(objects) = ObjectLayout::of(version) else { return names };
    let heap = Heap::new(memory, layout, objects, text_type);
    let Some(modules_offset) = modules_offset(&heap, objects, runtime) else { return names };
    let mut link = runtime.checked_add(layout.runtime_interpreters_head.into());
    for _ in 0..MAX_INTERPRETERS {
        let Some(interpreter) = link.and_then(|link| heap.pointer(link)) else { break };
        let _without_threading = interpreter
            .checked_add(modules_offset)
            .and_then(|modules| add_names(&heap, modules, wanted, &mut names));
        link = interpreter.checked_add(layout.interpreter_next.into());
    }
    names
}

fn modules_offset(heap: &Heap<'_>, objects: &ObjectLayout, runtime: u64) -> Option<u64> {
    /// `PyInterpreterState` has some 200 KB.
    const LIMIT: u64 = 1 << 20;
    match objects.modules {
        Modules::At(offset) => Some(offset.into()),
        Modules::Told(word) => {
            let told = |word: u32| heap.word(runtime.checked_add(8 * u64::from(word))?);
            let is_free_threaded = told(2)? != 0;
            let is_told = told(0)?.to_ne_bytes() == *b"xdebugpy" && !is_free_threaded;
            told(word).filter(|offset| is_told && *offset < LIMIT)
        }
    }
}

/// Adds the names of one interpreter's threads; `modules` is where it keeps its dict of modules.
fn add_names(
    heap: &Heap<'_>,
    modules: u64,
    wanted: &dyn Fn(u64) -> bool,
    names: &mut HashMap<u64, String>,
) -> Option<()> {
    let threading = heap.item(heap.pointer(modules)?, "threading")?;
    let active = heap.item(heap.pointer(threading.checked_add(MODULE_DICT)?)?, "_active")?;
    for (key, thread) in heap.entries(active)?.into_iter().take(MAX_THREADS) {
        if names.len() >= MAX_THREADS {
            break;
        }
        let named = || {
            let pointer = heap.integer(key).filter(|pointer| wanted(*pointer))?;
            Some((pointer, heap.text(heap.attribute(thread, "_name")?)?))
        };
        names.extend(named());
    }
    Some(())
}

#[cfg(test)]
mod tests;
