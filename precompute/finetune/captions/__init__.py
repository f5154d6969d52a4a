"""Fine-tuning an InstructBLIP captioner."""
