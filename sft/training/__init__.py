"""Learning from batches: the LightningModule, its optimizer, and what a run writes into its folder."""
