# The places where Xen enters the kernel as a 64-bit PV guest: the start, an event and a processor fault.
#
# Names in braces come from src/xen/entry.rs, names that begin with two underscores from linker.ld.
# Intel syntax. The labels are the steps.

# ---------------------------------------------------------------------------------------------------------------------
# The notes for the domain builder (xen/include/public/elfnote.h). All are for PV: a note of the type PHYS32_ENTRY
# would make init-xenstore-domain boot the image as PVH.
# ---------------------------------------------------------------------------------------------------------------------
.macro note_address type, value
    .balign 4
    .long 4, 8, \type               # length of the owner's name, length of the value, type
    .asciz "Xen"
    .quad \value
.endm
.macro note_text type, text
    .balign 4
    .long 4, 3f - 2f, \type
    .asciz "Xen"
2:  .asciz "\text"
3:  .balign 4
.endm

.section .note.Xen, "a", @note
    note_address 1, _start              # ENTRY
    note_address 2, hypercall_page      # HYPERCALL_PAGE: the builder fills the page
    note_address 3, __virt_base         # VIRT_BASE: the address at which physical page 0 is mapped
    note_address 4, __virt_base         # PADDR_OFFSET: physical addresses in the ELF file are virtual ones
    note_text 5, "xen-3.0"              # XEN_VERSION: the guest interface, the same since then
    note_text 6, "xenstore-stubdom"     # GUEST_OS
    note_text 8, "generic"              # LOADER
    note_text 9, "yes"                  # PAE_MODE: builders require the note, for 64-bit guests too

# ---------------------------------------------------------------------------------------------------------------------
# Start. rsi: start_info. rsp: the end of the builder's boot stack, which the builder allocated last.
# Paging is on, and the kernel is at its link address. Upcalls are masked.
# ---------------------------------------------------------------------------------------------------------------------
.section .text.boot, "ax", @progbits
.globl _start
_start:
    cld
take_own_stack:
    mov     rax, rsp
    lea     rsp, [rip + boot_stack_end]
    xor     ebp, ebp
enter_rust:
    mov     rdi, rsi                # start_info
    mov     rsi, rax                # the first byte that the builder did not use
    call    {start}
    ud2                             # the call never returns

# ---------------------------------------------------------------------------------------------------------------------
# Sleeps until an event. Upcalls are unmasked only here.
#
# In: rdi = address of this vCPU's upcall mask byte. A separate function has nothing live below rsp: Xen may push an
# upcall's frame there without touching a red zone.
# ---------------------------------------------------------------------------------------------------------------------
.globl block_until_event
block_until_event:
    push    rbx
    mov     rbx, rdi
    mov     edi, {sched_block}
    xor     esi, esi
    call    hypercall_page + {sched_op} * 32    # Xen clears the mask, checks for events, sleeps
mask_again:
    mov     byte ptr [rbx], 1                   # without an upcall, the mask is still clear
    pop     rbx
    ret

# An event was delivered: Xen has set the mask and pushed rcx, r11, rip, cs, rflags, rsp, ss.
# The main loop finds the event. This code only resumes the interrupted instruction, with upcalls masked. It belongs to
# block_until_event or to the hypercall page called there, where r11 and the flags hold no value in use.
.globl event_upcall
event_upcall:
    mov     rcx, [rsp]
    mov     r11, [rsp + 16]
    mov     rsp, [rsp + 40]
    jmp     r11

# ---------------------------------------------------------------------------------------------------------------------
# Processor faults. Xen pushed rcx, r11, an error code for some vectors, rip, cs, rflags, rsp, ss.
# No code returns from a fault. The state goes to a fixed place, and the handler gets a stack of its own: it works with
# any rsp at the time of the fault.
# ---------------------------------------------------------------------------------------------------------------------
.macro fault vector, kind
    .balign 16
    push    \vector
    jmp     fault_\kind
.endm
.globl fault_stubs
.balign 16
fault_stubs:                        # 16 bytes each; the order is the vector's
    fault 0, plain                  # divide error
    fault 1, plain                  # debug
    fault 2, plain                  # NMI
    fault 3, plain                  # breakpoint
    fault 4, plain                  # overflow
    fault 5, plain                  # bound range
    fault 6, plain                  # invalid opcode
    fault 7, plain                  # device not available
    fault 8, with_error             # double fault
    fault 9, plain                  # coprocessor segment
    fault 10, with_error            # invalid TSS
    fault 11, with_error            # segment not present
    fault 12, with_error            # stack segment
    fault 13, with_error            # general protection
    fault 14, with_error            # page fault
    fault 15, plain                 # reserved
    fault 16, plain                 # x87
    fault 17, with_error            # alignment
    fault 18, plain                 # machine check
    fault 19, plain                 # SIMD

fault_plain:
    pop     qword ptr [rip + fault_frame + 0]       # vector
    pop     rcx
    pop     r11
    mov     qword ptr [rip + fault_frame + 8], 0    # error code
    jmp     save_state
fault_with_error:
    pop     qword ptr [rip + fault_frame + 0]
    pop     rcx
    pop     r11
    pop     qword ptr [rip + fault_frame + 8]
save_state:
    pop     qword ptr [rip + fault_frame + 16]      # rip
    pop     qword ptr [rip + fault_frame + 24]      # cs
    pop     qword ptr [rip + fault_frame + 32]      # rflags
    pop     qword ptr [rip + fault_frame + 40]      # rsp
    pop     qword ptr [rip + fault_frame + 48]      # ss
    mov     [rip + fault_frame + 56], rax
    mov     [rip + fault_frame + 64], rbx
    mov     [rip + fault_frame + 72], rcx
    mov     [rip + fault_frame + 80], rdx
    mov     [rip + fault_frame + 88], rsi
    mov     [rip + fault_frame + 96], rdi
    mov     [rip + fault_frame + 104], rbp
    mov     [rip + fault_frame + 112], r8
    mov     [rip + fault_frame + 120], r9
    mov     [rip + fault_frame + 128], r10
    mov     [rip + fault_frame + 136], r11
    mov     [rip + fault_frame + 144], r12
    mov     [rip + fault_frame + 152], r13
    mov     [rip + fault_frame + 160], r14
    mov     [rip + fault_frame + 168], r15
report:
    lea     rsp, [rip + fault_stack_end]
    xor     ebp, ebp
    cld
    lea     rdi, [rip + fault_frame]
    call    {fault}
    ud2

# Xen could not load a segment register that the kernel never touches.
.globl failsafe_callback
failsafe_callback:
    ud2

# ---------------------------------------------------------------------------------------------------------------------
# Xen's page of hypercall stubs, 32 bytes each. The domain builder fills the page.
# ---------------------------------------------------------------------------------------------------------------------
.section .text.hypercall_page, "ax", @progbits
.globl hypercall_page
.balign 4096
hypercall_page:
    .skip   4096

# ---------------------------------------------------------------------------------------------------------------------
# Whole pages: a window that the kernel points at the shared-info frame, and the stacks. The page below each stack is
# unmapped at boot: a stack overflow then stops the domain instead of overwriting data.
# ---------------------------------------------------------------------------------------------------------------------
.section .bss.pages, "aw", @nobits
.globl shared_info_page
.balign 4096
shared_info_page:
    .skip   4096
.globl boot_stack
boot_stack:                         # the guard page
    .skip   4096
    .skip   {stack_bytes}
boot_stack_end:
.globl fault_stack
fault_stack:                        # the guard page
    .skip   4096
    .skip   {fault_stack_bytes}
fault_stack_end:

.section .bss.fault_frame, "aw", @nobits
.balign 8
fault_frame:
    .skip   176

.text
