//! stub
use std::ops::Range;
use object::{Object, ObjectSymbol};
use super::{Layout, Version, FrameForm};
use crate::model::Svma;
/// stub
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct PythonBinary { pub version: Version, pub runtime: Svma, pub code_type: Svma, pub eval_entry: Svma, pub eval: Vec<Range<u64>> }
/// stub
pub fn recognise(elf: &[u8]) -> Result<Option<PythonBinary>, String> {
    let Ok(file) = object::read::elf::ElfFile64::<object::Endianness>::parse(elf) else { return Ok(None) };
    let find = |name: &str| file.dynamic_symbols().find(|s| s.name() == Ok(name) && s.is_definition());
    let Some(runtime) = find("_PyRuntime") else { return Ok(None) };
    let code = find("PyCode_Type").ok_or("no PyCode_Type")?;
    let eval = find("_PyEval_EvalFrameDefault").ok_or("no eval")?;
    let index = crate::unwind::FdeIndex::parse(elf).map_err(|e| e.to_string())?;
    let range = index.function_range(elf, eval.address()).ok_or("no fde")?;
    let minor = if find("Py_Version").is_none() { if find("PyModule_AddObjectRef").is_some() {10} else if find("PyFrame_GetCode").is_some() {9} else {8} } else if find("PyErr_GetRaisedException").is_some() { 12 } else { 11 };
    Ok(Some(PythonBinary { version: Version { major: 3, minor, micro: 0 }, runtime: Svma(runtime.address()), code_type: Svma(code.address()), eval_entry: Svma(eval.address()), eval: vec![range] }))
}
impl PythonBinary {
    /// stub
    pub fn layout(&self, _elf: &[u8]) -> Result<Layout, String> {
        const A: u32 = Layout::ABSENT;
        let base = Layout { form: FrameForm::ObjectBytes, runtime_interpreters_head: 32, runtime_tstate_current: 568, interpreter_next: 0, interpreter_threads_head: 8,
            interpreter_gil_holder: A, interpreter_gil_locked: A, thread_next: 8, thread_interpreter: 16, thread_id: 176, thread_status: A, thread_active_mask: 0, thread_cframe: A, thread_frame: 24,
            frame_previous: 24, frame_code: 32, frame_instruction: 104, frame_owner: A, shim_owner: 255, code_first_line: 40, code_name: 112, code_qualified_name: A, code_file_name: 104, code_line_table: 120, code_instructions: A,
            text_hash: 24, text_state: 32, text_kind_shift: 2, text_ascii: 48, text_compact: 72, text_length: 16, bytes_size: 16, bytes_data: 32 };
        Ok(match self.version.minor {
            8 => Layout { runtime_tstate_current: 1368, ..base },
            9 => base,
            10 => Layout { form: FrameForm::ObjectUnits, frame_instruction: 96, ..base },
            11 => Layout { form: FrameForm::EntryFlag, runtime_interpreters_head: 40, runtime_tstate_current: 576, interpreter_threads_head: 16, thread_id: 152, thread_cframe: 56, thread_frame: 8,
              frame_previous: 48, frame_code: 32, frame_instruction: 56, frame_owner: 68, code_first_line: 72, code_name: 120, code_qualified_name: 128, code_file_name: 112, code_line_table: 136, code_instructions: 184, ..base },
            _ => Layout { form: FrameForm::Shim, runtime_interpreters_head: 40, runtime_tstate_current: A, interpreter_threads_head: 72, thread_id: 136, thread_status: 24, thread_active_mask: 16, thread_cframe: 56, thread_frame: 0,
              frame_previous: 8, frame_code: 0, frame_instruction: 56, frame_owner: 70, shim_owner: 3, code_first_line: 68, code_name: 120, code_qualified_name: 128, code_file_name: 112, code_line_table: 136, code_instructions: 192, text_ascii: 40, text_compact: 56, ..base },
        })
    }
}
