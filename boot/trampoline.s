# The trampoline between two kernels in one domain: a page of code and a page of data. Both are mapped at the same
# addresses in the predecessor's and in the successor's address space (src/xen/trampoline.rs, docs/live-update.md).
#
# The code is copied to its page, and the data page follows it: all addresses are relative to the code. Names in braces
# are offsets in the data page and hypercall numbers, and come from src/xen/trampoline.rs.

.section .text.trampoline, "ax", @progbits
.balign 16
.globl trampoline_start
trampoline_start:
.set trampoline_data, trampoline_start + 4096

# ---------------------------------------------------------------------------------------------------------------------
# To the successor. The predecessor calls this; the call returns only through trampoline_return.
# When upcalls are unmasked, the only unmasked port is the alarm at the end of the successor's time.
# ---------------------------------------------------------------------------------------------------------------------
.globl trampoline_enter
trampoline_enter:
    mov     [rip + trampoline_data + {saved_rsp}], rsp
    lea     rsp, [rip + trampoline_data + 4096]
    mov     rax, [rip + trampoline_data + {upcall_mask}]
    mov     byte ptr [rax], 0
    lea     rdi, [rip + trampoline_data + {to_successor}]
    call    switch_space
    test    rax, rax
    jnz     refused
    mov     rsi, [rip + trampoline_data + {entry_rsi}]
    mov     rsp, [rip + trampoline_data + {entry_rsp}]
    xor     eax, eax
    xor     ebx, ebx
    xor     ecx, ecx
    xor     edx, edx
    xor     edi, edi
    xor     ebp, ebp
    cld
    jmp     qword ptr [rip + trampoline_data + {entry_rip}]
refused:
    mov     qword ptr [rip + trampoline_data + {outcome}], {outcome_refused}
    # falls through: return to the predecessor, whose address space is still active

# ---------------------------------------------------------------------------------------------------------------------
# Back to the predecessor, from any place in the successor. The outcome is in the data page.
# ---------------------------------------------------------------------------------------------------------------------
.globl trampoline_return
trampoline_return:
    cld
    lea     rsp, [rip + trampoline_data + 4096]
    lea     rdi, [rip + trampoline_data + {to_predecessor}]
    call    switch_space
    test    rax, rax
    jnz     lost
    mov     rax, [rip + trampoline_data + {upcall_mask}]
    mov     byte ptr [rax], 1
    mov     rsp, [rip + trampoline_data + {saved_rsp}]
    ret                                         # from trampoline_enter, into the predecessor

# In: rdi = struct mmuext_op with the new root. Out: rax.
switch_space:
    mov     esi, 1
    xor     edx, edx
    mov     r10d, 0x7ff0                        # DOMID_SELF
    mov     eax, {mmuext_op}
    syscall
    ret

# Xen refused the predecessor's root page table. No kernel is left to report this, so the domain crashes.
lost:
    push    {crash}
    mov     rsi, rsp
    mov     edi, {sched_shutdown}
    mov     eax, {sched_op}
    syscall
    jmp     lost

# The alarm: the successor's time is over. Xen set the mask and pushed rcx, r11, rip, cs, rflags, rsp, ss.
.globl trampoline_upcall
trampoline_upcall:
    cmp     qword ptr [rip + trampoline_data + {outcome}], 0
    jne     trampoline_return                       # the way back has begun already
    mov     qword ptr [rip + trampoline_data + {outcome}], {outcome_late}
    mov     rax, [rsp + 16]
    mov     [rip + trampoline_data + {fault_rip}], rax
    jmp     trampoline_return

.globl trampoline_failsafe
trampoline_failsafe:
    mov     qword ptr [rip + trampoline_data + {outcome}], {outcome_fault}
    jmp     trampoline_return

# ---------------------------------------------------------------------------------------------------------------------
# Processor faults, until the successor has handlers of its own. Xen pushed rcx, r11, an error code for some vectors,
# rip, cs, rflags, rsp, ss.
# ---------------------------------------------------------------------------------------------------------------------
.macro trampoline_fault vector, kind
    .balign 16
    push    \vector
    jmp     trampoline_fault_\kind
.endm
.globl trampoline_faults
.balign 16
trampoline_faults:                      # 16 bytes each; the order is the vector's
    trampoline_fault 0, plain
    trampoline_fault 1, plain
    trampoline_fault 2, plain
    trampoline_fault 3, plain
    trampoline_fault 4, plain
    trampoline_fault 5, plain
    trampoline_fault 6, plain
    trampoline_fault 7, plain
    trampoline_fault 8, with_error
    trampoline_fault 9, plain
    trampoline_fault 10, with_error
    trampoline_fault 11, with_error
    trampoline_fault 12, with_error
    trampoline_fault 13, with_error
    trampoline_fault 14, with_error
    trampoline_fault 15, plain
    trampoline_fault 16, plain
    trampoline_fault 17, with_error
    trampoline_fault 18, plain
    trampoline_fault 19, plain
trampoline_fault_plain:
    mov     rax, [rsp + 24]         # vector, rcx, r11, rip
    jmp     trampoline_fault_both
trampoline_fault_with_error:
    mov     rax, [rsp + 32]         # vector, rcx, r11, error code, rip
trampoline_fault_both:
    mov     [rip + trampoline_data + {fault_rip}], rax
    pop     qword ptr [rip + trampoline_data + {fault_vector}]
    mov     qword ptr [rip + trampoline_data + {outcome}], {outcome_fault}
    jmp     trampoline_return
.globl trampoline_end
trampoline_end:

.text

# ---------------------------------------------------------------------------------------------------------------------
# The predecessor's call of trampoline_enter, around which the callee-saved registers are kept. In: rdi = the address
# of trampoline_enter.
# ---------------------------------------------------------------------------------------------------------------------
.globl cross_trampoline
cross_trampoline:
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    call    rdi
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    ret
